package ratelimit

import (
	"context"
	"time"

	"github.com/sony/gobreaker/v2"
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
	compiled, err := l.compile(policies)
	if err != nil {
		return Decision{}, err
	}
	return l.runCheck(ctx, question{tag(caller), cost, compiled})
}

func (l *Limiter) compile(policies []Policy) (compiled []*CompiledPolicy, err error) {
	for _, p := range policies {
		c, err := l.Policy(p)
		if err != nil {
			return nil, err
		}
		compiled = append(compiled, c)
	}
	return compiled, nil
}

// Remembered is how many denials this process remembers, for how many spenders it stands in for Redis, and about how
// many bytes it takes for that.
func (l *Limiter) Remembered() (denied, spenders int, bytes int64) {
	return l.denials.known.Len(), l.fallback.spent.Len(), l.fallback.bytes
}

// Replicas is how many were alive when this one last heard.
func (l *Limiter) Replicas() int64 { return l.presence.replicas.Load() }

// Subscribed says that it has heard of its own subscription, or of a reset.
func (l *Limiter) Subscribed() bool { return l.denials.current() > 0 }

// Late is how many calls go on whose callers no longer wait.
func (l *Limiter) Late() int64 { return l.late.count.Load() }

// Key is where Redis keeps what a caller has spent of a policy, in the default namespace.
func Key(caller string, p Policy) string { return KeyIn("default", caller, p) }

// KeyIn is the same in any namespace.
func KeyIn(namespace, caller string, p Policy) string {
	defaultTo(&p.Strategy, Exact)
	return newNames(namespace).spent(tag(caller), p.suffix())
}

// The other names in Redis, in the default namespace.
var (
	ReplicasKey   = newNames("default").replicas
	ResetsChannel = newNames("default").resets
)

// UnheardFor is how long a denial is remembered while resets are not heard of.
const UnheardFor = unheardFor

// Specification is the pure decision with a memory of its own.
type Specification struct{ spent map[Policy]*spent }

// Decide says what the policies hold of a cost at a time. There is one caller.
func (s *Specification) Decide(now time.Time, cost int64, policies ...Policy) []Verdict {
	if s.spent == nil {
		s.spent = map[Policy]*spent{}
	}
	states := make([]*spent, len(policies))
	for i, p := range policies {
		if s.spent[identity(p)] == nil {
			s.spent[identity(p)] = &spent{}
		}
		states[i] = s.spent[identity(p)]
	}
	return decide(now.UnixMicro(), cost, policies, states)
}

// identity is what stays of a policy when its limit is changed.
func identity(p Policy) Policy { return Policy{Name: p.Name, Strategy: p.Strategy} }

// Opens says whether the circuit opens if each call ends in that error.
func Opens(ctx context.Context, err error) bool {
	state := gobreaker.StateClosed
	b := newBreaker(func(to gobreaker.State) { state = to })
	for range breakerTrips {
		_ = b.do(ctx, func() error { return err })
	}
	return state == gobreaker.StateOpen
}
