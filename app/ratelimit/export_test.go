package ratelimit

import (
	"context"
	"time"
)

// At has the limiter decide at that time instead of Redis's.
func (o Options) At(clock func() time.Time) Options {
	o.clock = clock
	return o
}

// BreakerTrips and BreakerRest are when the breaker opens, and for how long.
const (
	BreakerTrips = breakerTrips
	BreakerRest  = breakerRest
)

// Ask has Redis decide, whatever this process remembers.
func (l *Limiter) Ask(ctx context.Context, caller string, cost int64, policies ...Policy) (Decision, error) {
	return l.runCheck(ctx, question{tag(caller), cost, policies})
}

// Remembered is how many denials this process remembers, and for how many spenders it stands in for Redis.
func (l *Limiter) Remembered() (denied, spenders int) {
	return l.denials.known.Len(), l.fallback.spent.Len()
}

// Replicas is how many were alive when this one last heard.
func (l *Limiter) Replicas() int64 { return l.replicas.Load() }

// Key is where Redis keeps what a caller has spent of a policy.
func Key(caller string, p Policy) string { return p.key(tag(caller)) }

// The other names in Redis.
const (
	ReplicasKey   = replicasKey
	ResetsChannel = resetsChannel
)

// Specification is the pure decision with a memory of its own.
type Specification struct{ spent map[Policy]spent }

// Decide says what the policies hold of a cost at a time. There is one caller.
func (s *Specification) Decide(now time.Time, cost int64, policies ...Policy) []Verdict {
	before := make([]spent, len(policies))
	for i, p := range policies {
		before[i] = s.spent[identity(p)]
	}
	verdicts, after := decide(now.UnixMicro(), cost, policies, before)
	if s.spent == nil {
		s.spent = map[Policy]spent{}
	}
	for i, p := range policies {
		s.spent[identity(p)] = after[i]
	}
	return verdicts
}

// identity is what stays of a policy when its limit is changed.
func identity(p Policy) Policy { return Policy{Name: p.Name, Strategy: p.Strategy} }
