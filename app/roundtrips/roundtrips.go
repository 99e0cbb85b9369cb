// Package roundtrips tallies what one unit of work costs its stores. A tally travels in the context: whoever opens the
// work (a request, a page of a job, a background fill) puts one in, the instrumented clients add to it, and whoever
// closes the work reads it.
//
// A round-trip is one flush followed by one wait for the answer on one connection: a pipeline is one, a prepare is one
// more. Work without a tally is not an error: every method of a nil *Tally does nothing and answers zero, so that a
// mechanism which is lifted into another service needs no tally at all.
package roundtrips

import (
	"context"
	"sync/atomic"
	"time"
)

// Store names a server that a round-trip went to; it is the `store` attribute of the instruments.
type Store string

// The two stores of this deployment.
const (
	Postgres Store = "postgres"
	Redis    Store = "redis"
)

// Tally counts the round-trips of one unit of work and the time spent in them. It is safe for concurrent use.
type Tally struct {
	operation string
	strategy  atomic.Value // string
	postgres  counter
	redis     counter
}

type counter struct{ trips, nanoseconds atomic.Int64 }

// New returns an empty tally for an operation: a route (`GET /posts/trending`), a command or a job. It becomes a metric
// attribute, so it must come from a small fixed set, never from a caller's input.
func New(operation string) *Tally { return &Tally{operation: operation} }

type key struct{}

// With returns a context that carries the tally; any tally that it carried before is hidden, not added to.
func With(ctx context.Context, t *Tally) context.Context { return context.WithValue(ctx, key{}, t) }

// From returns the tally that the context carries, or nil.
func From(ctx context.Context) *Tally {
	t, _ := ctx.Value(key{}).(*Tally)
	return t
}

// Add records n round-trips to a store that took d together.
func (t *Tally) Add(store Store, n int64, d time.Duration) {
	if c := t.counter(store); c != nil {
		c.trips.Add(n)
		c.nanoseconds.Add(int64(d))
	}
}

// Count returns how many round-trips went to the store so far.
func (t *Tally) Count(store Store) int64 {
	if c := t.counter(store); c != nil {
		return c.trips.Load()
	}
	return 0
}

// Time returns how long the round-trips to the store took, added up: calls that overlap count twice.
func (t *Tally) Time(store Store) time.Duration {
	if c := t.counter(store); c != nil {
		return time.Duration(c.nanoseconds.Load())
	}
	return 0
}

// Operation returns what New was given.
func (t *Tally) Operation() string {
	if t == nil {
		return ""
	}
	return t.operation
}

// SetStrategy names how the work is done, as soon as that is known; it labels the round-trips made from then on.
func (t *Tally) SetStrategy(strategy string) {
	if t != nil {
		t.strategy.Store(strategy)
	}
}

// Strategy returns the last SetStrategy, or "".
func (t *Tally) Strategy() string {
	if t == nil {
		return ""
	}
	s, _ := t.strategy.Load().(string)
	return s
}

func (t *Tally) counter(store Store) *counter {
	switch {
	case t == nil:
		return nil
	case store == Postgres:
		return &t.postgres
	case store == Redis:
		return &t.redis
	}
	return nil
}
