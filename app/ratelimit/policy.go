package ratelimit

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Policy is one limit: a caller may spend at most Limit units within any Window.
type Policy struct {
	// Name tells policies of one caller apart, in Redis and in telemetry: one of few words.
	Name string

	// Limit is how many units a Window holds, at least 1. The log of a caller who has spent it all is about ten bytes a
	// unit in Redis: this is for hundreds, not for millions.
	Limit int64

	// Window is how long a unit counts once it was spent, at least a millisecond.
	Window time.Duration

	// Strategy is how units are counted. Defaults to Exact.
	Strategy Strategy

	// Fallback is what happens while Redis cannot be asked. Defaults to Local.
	Fallback Fallback
}

// Strategy names a way to count.
type Strategy string

const (
	// FixedWindow counts by windows that begin with the clock's: the classic INCR. Around the end of a window it admits
	// nearly twice the limit within a moment; it is here to show that.
	FixedWindow Strategy = "fixed_window"
	// Exact keeps when each unit was spent, and so admits at most the limit in every window, wherever one begins.
	Exact Strategy = "exact"
)

// Strategies lists all strategies, from naive to exact.
func Strategies() []Strategy { return []Strategy{FixedWindow, Exact} }

// UnmarshalText accepts the name of a strategy.
func (s *Strategy) UnmarshalText(text []byte) error { return oneOf(s, text, "strategy", Strategies()) }

// Fallback names what to do while Redis cannot be asked.
type Fallback string

const (
	// Local counts in this process, and admits the limit divided by the number of replicas that were alive when last
	// heard of, at least one unit.
	Local Fallback = "local"
	// Open admits everything: the limit is a courtesy.
	Open Fallback = "open"
	// Closed denies everything: too much would be worse than nothing.
	Closed Fallback = "closed"
)

// Fallbacks lists all of them.
func Fallbacks() []Fallback { return []Fallback{Local, Open, Closed} }

// UnmarshalText accepts the name of a fallback.
func (f *Fallback) UnmarshalText(text []byte) error { return oneOf(f, text, "fallback", Fallbacks()) }

func oneOf[T ~string](target *T, text []byte, kind string, names []T) error {
	if !slices.Contains(names, T(text)) {
		var known []string
		for _, name := range names {
			known = append(known, string(name))
		}
		return fmt.Errorf("there is no %s %q, only %s", kind, text, strings.Join(known, ", "))
	}
	*target = T(text)
	return nil
}

// withDefaults panics on a policy that cannot work, because that is a fault of the program and not of who calls.
func (p Policy) withDefaults() Policy {
	if p.Name == "" || p.Limit < 1 || p.Window < time.Millisecond {
		panic(fmt.Sprintf("ratelimit: a policy needs a Name, a Limit and a Window: %+v", p))
	}
	defaultTo(&p.Strategy, Exact)
	defaultTo(&p.Fallback, Local)
	return p
}
