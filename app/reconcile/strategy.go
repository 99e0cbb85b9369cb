package reconcile

import (
	"fmt"
	"slices"
	"strings"
)

// Strategy names a way to reconcile. All of them come to the same end; they differ in what it costs.
type Strategy string

const (
	// NPlusOne finds each payment's settlement and updates each payment: round-trips to Postgres as many as there are
	// payments, and again as many as agree.
	NPlusOne Strategy = "n_plus_one"
	// BatchedReads compares a thousand payments at a time, and still updates each.
	BatchedReads Strategy = "batched_reads"
	// Buffered compares 2,500 at a time, collects in Redis which agree, and updates those of a range at once. What it does
	// to each payment may be any code.
	Buffered Strategy = "buffered"
	// SingleStatement leaves all to Postgres, a statement a range. Where comparing is something that SQL can say, nothing
	// beats it: the honest control.
	SingleStatement Strategy = "single_statement"
)

// Strategies lists all strategies, from naive to none of our business.
func Strategies() []Strategy { return []Strategy{NPlusOne, BatchedReads, Buffered, SingleStatement} }

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
