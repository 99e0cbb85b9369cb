package trending

import (
	"fmt"
	"slices"
	"strings"
)

// Strategy names a way to answer. All of them give the same answer; they differ in what it costs.
type Strategy string

const (
	// NPlusOne lists the posts, then asks for each post's author: 11 round-trips to Postgres for ten posts.
	NPlusOne Strategy = "n_plus_one"
	// Preload lists the posts, then asks for all authors at once: 2 round-trips. Memory inside one request, forgotten
	// with it.
	Preload Strategy = "preload"
	// TTL keeps Preload's answer in Redis for a while: memory across requests. When it expires, every request in flight
	// computes it again.
	TTL Strategy = "ttl"
	// Lease keeps it likewise, and lets only one request of all replicas compute it.
	Lease Strategy = "lease"
)

// Strategies lists all strategies, from naive to protected.
func Strategies() []Strategy { return []Strategy{NPlusOne, Preload, TTL, Lease} }

// UnknownStrategyError answers a name that is none of Strategies.
type UnknownStrategyError struct{ Name string }

func (e UnknownStrategyError) Error() string {
	names := make([]string, len(Strategies()))
	for i, s := range Strategies() {
		names[i] = string(s)
	}
	return fmt.Sprintf("there is no strategy %q, only %s", e.Name, strings.Join(names, ", "))
}

// UnmarshalText accepts the name of a strategy; otherwise it returns an UnknownStrategyError.
func (s *Strategy) UnmarshalText(text []byte) error {
	if !slices.Contains(Strategies(), Strategy(text)) {
		return UnknownStrategyError{string(text)}
	}
	*s = Strategy(text)
	return nil
}
