// Package ratelimit decides whether a caller may go on, by limits that all replicas of a service share through Redis.
//
// # What it promises
//
// While Redis answers and its clock is not set forward, a policy of N units in a window admits at most N in every
// window, wherever it begins and over however many replicas, and it denies nothing that N would hold. A decision over
// all of a caller's policies is one round-trip, and spends from all of them or from none. A denial says how long it
// lasts and costs nothing to repeat: the replica remembers it until then, and never refuses what Redis would admit.
//
// # On which topology
//
//   - One server, also over TLS or a Unix socket: the promise above.
//   - Sentinel (a failover client) and Cluster: the same without a failover. Replication is asynchronous, so a failover
//     may forget the last units of every caller on that master; each such caller can spend up to N units more in that
//     window. While no master answers, the policies' Fallback decides.
//   - Cluster: all policies of a caller are in one slot, and a slot that moves to another master loses nothing.
//
// The minimum server is Redis 7.0; Valkey works too. The client must obey the context's deadline
// (ContextTimeoutEnabled), or a call may outlive Options.CallTimeout, and must not repeat a script (MaxRetries -1), or
// it spends twice.
//
// # How it fails
//
// A check waits for Redis for at most Options.Budget; then each policy's Fallback decides in this process. Every such
// decision says so (Degraded) and is counted. The budget bounds the wait and not the call: the call goes on, up to
// Options.CallTimeout, and its answer is remembered. Late calls are bounded by Options.LateCalls; with more, checks are
// decided without Redis. After five failures in a row a circuit breaker decides without Redis for a second. Every
// refusal counts as a failure: a wrong password, a missing permission, a read-only, loading or full server.
//
// A fallback of Local admits the replica's share of the limit, and continues from what this replica has admitted
// before; what other replicas have admitted only Redis knew, and what is admitted meanwhile Redis is not told. So
// around an outage a caller may spend up to twice the limit in a window, if it turns from one replica to others.
//
// What Redis forgets (an eviction, a FLUSHALL) can be spent again: up to N units more, once the replicas' memory of
// denials has ended. A clock that is set forward has the same effect. One that is set back costs no caller more than
// one window of waiting, and makes Exact admit nothing more. A script whose reply is lost has spent units that no
// caller got: fewer are admitted, never more.
//
// A Reset reaches the other replicas at once by Pub/Sub. A replica that is not connected forgets all denials when it is
// again. Where the user of Redis has no permission for the channel, the limiter works in reduced mode, which the metric
// ratelimit.reduced and one line in the log say: without PUBLISH a Reset reaches other replicas by their next
// heartbeat; without SUBSCRIBE a replica remembers a denial for at most a second. A user without SCRIPT LOAD sends a
// script whole when the server does not have it.
//
// # What it costs
//
// A caller who has spent a limit of 100 takes 1.3 kB of Redis, about ten bytes a unit more, and one that is silent for
// a window nothing. A cost of 10,000 units keeps Redis busy for about a millisecond. A process takes about 400 bytes
// for each denial that it remembers, at most 10,000 (Options.Memory), and at most 16 MiB to stand in for Redis
// (Options.FallbackBytes).
//
// To lift it, copy this folder: it needs go-redis, gobreaker, golang-lru and the OpenTelemetry API.
package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"
)

var (
	// ErrCost answers a cost that no policy could ever admit: less than one unit, or more than a limit.
	ErrCost = errors.New("rate limit: the cost is less than 1 or more than the limit")
	// ErrPolicies answers policies that were not made by Limiter.Policy.
	ErrPolicies = errors.New("rate limit: policies that cannot be checked")
)

// Limiter decides. It is safe for concurrent use.
type Limiter struct {
	rdb      redis.UniversalClient
	options  Options
	names    names
	tel      *instruments
	breaker  breaker
	denials  *denials
	fallback *fallback
	late     lateCalls
	// answered is when Redis last answered within the budget, in ns since the limiter was born.
	answered atomic.Int64
	born     time.Time
	reduced  reduced
	presence presence
}

// New returns a limiter. Run must go on beside it: it hears of resets by other replicas and knows how many replicas
// there are. New panics on options that cannot work.
func New(rdb redis.UniversalClient, options Options) *Limiter {
	options = options.withDefaults()
	l := &Limiter{
		rdb:      rdb,
		born:     time.Now(),
		options:  options,
		names:    newNames(options.Namespace),
		tel:      newInstruments(options.TracerProvider, options.MeterProvider),
		denials:  newDenials(options.Memory),
		fallback: newFallback(options.Memory, options.FallbackBytes),
		late:     lateCalls{most: options.LateCalls},
	}
	l.presence.replicas.Store(1)
	l.breaker = newBreaker(l.tel.breakerChanged)
	l.tel.observe(l)
	return l
}

// question is what one Check asks.
type question struct {
	caller   string // as a hash tag
	cost     int64
	policies []*CompiledPolicy
}

// Check spends the cost, in units, from each of the caller's policies, or from none if one of them does not hold it.
// The caller is any text that tells it from others. The errors are ErrCost, ErrPolicies, and the context's: the caller
// stopped waiting, and Redis may have spent the cost. No policy is no limit.
//
// An admission costs one round-trip, a denial that is remembered none. A remembered denial is recorded as a span only
// within a span that is recorded: it must stay cheap.
func (l *Limiter) Check(
	ctx context.Context, caller string, cost int64, policies ...*CompiledPolicy,
) (Decision, error) {
	if err := checkable(cost, policies); err != nil {
		return Decision{}, err
	}
	if len(policies) == 0 {
		return Decision{Allowed: true, Source: FromMemory}, nil
	}
	started := time.Now()
	caller = tag(caller)
	if d, known := l.denials.recall(caller, cost, policies, l.now()); known {
		l.recalled(ctx, d, policies, started)
		return d, nil
	}
	q := question{caller, cost, slices.Clone(policies)}
	ctx, span := l.tel.startCheck(ctx)
	defer span.End()
	d, err := l.decide(ctx, q)
	l.tel.decided(ctx, d, q.policies, err, time.Since(started))
	return d, err
}

// checkable returns why no check of this kind can ever be answered.
func checkable(cost int64, policies []*CompiledPolicy) error {
	for i, p := range policies {
		switch {
		case p == nil || p.settings.Limit == 0:
			return fmt.Errorf("%w: number %d was not made by Limiter.Policy", ErrPolicies, i+1)
		case cost < 1 || cost > p.settings.Limit:
			return fmt.Errorf("%w: %d of %d by %s", ErrCost, cost, p.settings.Limit, p.settings.Name)
		}
	}
	return nil
}

// recalled records a denial from memory.
func (l *Limiter) recalled(ctx context.Context, d Decision, policies []*CompiledPolicy, started time.Time) {
	if trace.SpanFromContext(ctx).IsRecording() {
		var span trace.Span
		ctx, span = l.tel.startCheck(ctx, trace.WithTimestamp(started))
		defer span.End()
	}
	l.tel.decided(ctx, d, policies, nil, time.Since(started))
}

func (l *Limiter) decide(ctx context.Context, q question) (Decision, error) {
	d, c, err := l.ask(ctx, q)
	if err == nil {
		return d, nil
	}
	if gone := ended(ctx); gone != nil {
		c.settle(false)
		return Decision{}, gone
	}
	// The reason is an event and no failure: the check has an answer, and says that it is degraded.
	trace.SpanFromContext(ctx).RecordError(err)
	d = l.fallback.decide(l.now().UnixMicro(), l.presence.replicas.Load(), q)
	c.settle(d.Allowed)
	return d, nil
}

// ask has Redis decide. It returns the call, which may go on, or nil if Redis was not asked.
func (l *Limiter) ask(ctx context.Context, q question) (d Decision, c *call, err error) {
	if ctx.Err() != nil {
		return Decision{}, nil, ctx.Err()
	}
	if l.late.full() {
		return Decision{}, nil, errLate
	}
	begun := time.Now()
	err = l.breaker.do(ctx, func() error {
		c = l.start(ctx, q)
		d, err = c.wait(ctx, l.options.Budget)
		switch {
		case err == nil:
			l.answered.Store(time.Since(l.born).Nanoseconds())
		case errors.Is(err, errBudget) && l.answered.Load() > begun.Sub(l.born).Nanoseconds():
			return errAlone
		}
		return err
	})
	return d, c, err
}

// Reset forgets what the caller has spent of the policies, by any strategy, and that it was denied, on all replicas
// that run (Run); a replica that decides at this moment may forget a moment later. An error means that Redis did not do
// it. Where the user of Redis may not PUBLISH, other replicas forget with their next heartbeat.
func (l *Limiter) Reset(ctx context.Context, caller string, policies ...*CompiledPolicy) error {
	caller = tag(caller)
	var keys []string
	for i, p := range policies {
		if p == nil || p.settings.Limit == 0 {
			return fmt.Errorf("%w: number %d was not made by Limiter.Policy", ErrPolicies, i+1)
		}
		for _, suffix := range p.suffixes {
			keys = append(keys, l.names.spent(caller, suffix))
		}
	}
	if len(keys) == 0 {
		return nil
	}
	refusal, err := resetScript.Run(ctx, l.rdb, keys, l.names.resets, caller).Text()
	if err != nil {
		return fmt.Errorf("rate limit: reset: %w", err)
	}
	l.denials.forget(caller)
	l.fallback.forget(caller)
	l.reduced.set(ctx, publish, refusal != "", refusal)
	if refusal != "" {
		l.markUnheard(ctx)
	}
	return nil
}

// now is what time it is here, where no other replica has to agree.
func (l *Limiter) now() time.Time {
	if l.options.clock != nil {
		return l.options.clock()
	}
	return time.Now()
}
