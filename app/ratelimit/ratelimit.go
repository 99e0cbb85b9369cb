// Package ratelimit decides whether a caller may go on, by limits that all replicas share.
//
// # What it promises
//
// While Redis answers and its clock is not set forward, a policy of N units in a window admits at most N in every
// window, wherever one begins and over however many replicas, and it denies nothing that N would hold. A decision over
// all of a caller's policies is one round-trip, and spends from all of them or from none. A denial says how long it
// lasts and costs nothing to repeat: the replica remembers it until then, and never refuses what Redis would admit.
//
// # How it fails
//
// A Redis that does not answer within the budget is not waited for: each policy's Fallback decides in this process,
// which every such decision says (Degraded) and is counted. Redis is tried again by itself. Where a replica admits its
// share of the limit, it goes on from what it has admitted itself; but what others have, only Redis knew, and what is
// admitted meanwhile Redis is not told. So around an outage a caller may spend up to twice the limit in a window, if it
// turns from one replica to others.
//
// What Redis forgets (an eviction, a FLUSHALL, a failover to a replica that is behind) can be spent again: up to N
// units more, once the replicas' memory of denials has ended. So can a clock that is set forward cost. One that is set
// back costs no caller more than one window of waiting, and makes Exact admit nothing more. A script whose reply is
// lost has spent what nobody got: fewer are admitted, never more. A Reset that a replica does not hear of, because it
// is just not connected, reaches it when it is again.
//
// The client must obey the context's deadline (ContextTimeoutEnabled), or a Redis that hangs is waited for all the
// same, and must not repeat a script (MaxRetries -1), or it spends twice.
//
// # What it costs
//
// A caller who has spent a limit of 100 takes 1.3 kB of Redis, one who is silent for a window nothing. What a replica
// remembers is bounded by Options.Memory.
//
// To lift it, copy this folder: it needs go-redis, gobreaker, golang-lru and the OpenTelemetry API.
package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"
)

// ErrCost answers a cost that no policy could ever admit: less than one unit, or more than a limit.
var ErrCost = errors.New("the cost is less than 1 or more than the limit")

// Limiter decides. It is safe for concurrent use.
type Limiter struct {
	rdb      redis.UniversalClient
	options  Options
	tel      *instruments
	breaker  breaker
	denials  *denials
	fallback *fallback
	// replicas is how many were alive when this one last heard.
	replicas atomic.Int64
}

// New returns a limiter. For resets elsewhere to reach what it remembers, and for it to know of other replicas,
// somebody must keep Run going.
func New(rdb redis.UniversalClient, options Options) *Limiter {
	options = options.withDefaults()
	l := &Limiter{
		rdb:      rdb,
		options:  options,
		tel:      newInstruments(options.TracerProvider, options.MeterProvider),
		denials:  newDenials(options.Memory),
		fallback: newFallback(options.Memory),
	}
	l.replicas.Store(1)
	l.breaker = newBreaker(l.tel.breakerChanged)
	l.tel.observe(options.Budget, l.replicas.Load, func() (callers, most int64) { return l.denials.count(l.now()) })
	return l
}

// question is what one Check asks.
type question struct {
	caller   string
	cost     int64
	policies []Policy
}

// Check spends the cost, in units, from each of the caller's policies, or from none if one of them does not hold it.
// The caller is any text that tells it from others. It is an error to ask for what can never be admitted (ErrCost); the
// other errors are the context's. No policy is no limit.
func (l *Limiter) Check(ctx context.Context, caller string, cost int64, policies ...Policy) (Decision, error) {
	q := question{tag(caller), cost, make([]Policy, len(policies))}
	for i, p := range policies {
		q.policies[i] = p.withDefaults()
		if cost < 1 || cost > p.Limit {
			return Decision{}, fmt.Errorf("%w: %d of %d by %s", ErrCost, cost, p.Limit, p.Name)
		}
	}
	if len(policies) == 0 {
		return Decision{Allowed: true, Source: FromMemory}, nil
	}
	started := time.Now()
	ctx, span := l.tel.startCheck(ctx)
	defer span.End()
	d, err := l.decide(ctx, q)
	l.tel.decided(ctx, d, err, time.Since(started))
	return d, err
}

func (l *Limiter) decide(ctx context.Context, q question) (Decision, error) {
	if d, known := l.denials.recall(q, l.now()); known {
		return d, nil
	}
	d, err := l.ask(ctx, q)
	switch {
	case err == nil:
		return d, nil
	case ended(ctx) != nil:
		return Decision{}, ended(ctx)
	}
	// The reason is an event and no failure: the check has an answer, and says that it is degraded.
	trace.SpanFromContext(ctx).RecordError(err)
	return l.fallback.decide(l.now().UnixMicro(), l.replicas.Load(), q), nil
}

// ask has Redis decide, and remembers what it says.
func (l *Limiter) ask(ctx context.Context, q question) (d Decision, err error) {
	epoch, asked := l.denials.current(), l.now()
	err = l.breaker.do(ctx, func() error {
		bounded, cancel := context.WithTimeout(ctx, l.options.Budget)
		defer cancel()
		d, err = l.runCheck(bounded, q)
		return err
	})
	switch {
	case err != nil:
		return Decision{}, err
	case d.Allowed:
		l.fallback.admitted(l.now().UnixMicro(), q)
	default:
		l.denials.remember(q, d, asked, l.now(), epoch)
	}
	return d, nil
}

// Reset forgets what the caller has spent of the policies, by any strategy, and that it was denied, on all replicas
// that run (Run); a replica that just decides may come a moment later. Its error says that Redis did not do it.
func (l *Limiter) Reset(ctx context.Context, caller string, policies ...Policy) error {
	var keys []string
	for _, p := range policies {
		for _, s := range Strategies() {
			p.Strategy = s
			keys = append(keys, p.key(tag(caller)))
		}
	}
	if len(keys) == 0 {
		return nil
	}
	if err := resetScript.Run(ctx, l.rdb, keys, resetsChannel, tag(caller)).Err(); err != nil {
		return fmt.Errorf("rate limit: reset: %w", err)
	}
	l.denials.forget(tag(caller))
	l.fallback.forget(tag(caller))
	return nil
}

// now is what time it is here, where no other replica has to agree.
func (l *Limiter) now() time.Time {
	if l.options.clock != nil {
		return l.options.clock()
	}
	return time.Now()
}
