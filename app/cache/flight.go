package cache

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// flight is one process's attempt to get a value that is missing or stale. All of its requests for the key share it
// (singleflight). It belongs to none of them: a request that leaves, also the first, changes nothing for the others.
type flight[V any] struct {
	done chan struct{}
	// waiting is how many requests wait for its end.
	waiting atomic.Int64
	// leads is true once this flight fills. Until then its starter waits like the others.
	leads atomic.Bool
	// asked is true once this flight has asked for the lease. Guarded by the cache's mu.
	asked bool
	// holder is known once a lease or a fill is.
	holder atomic.Pointer[holder]

	// Valid when done is closed.
	outcome outcome[V]
}

// holder is the span in which a fill runs, and its replica.
type holder struct {
	span    trace.SpanContext
	replica string
}

// cause says why a fill was begun.
type cause string

const (
	causeMiss    cause = "miss"    // there was nothing to serve
	causeStale   cause = "stale"   // what there was had expired
	causeEarly   cause = "early"   // what there was would expire soon
	causeRefresh cause = "refresh" // Refresh was called
)

type outcome[V any] struct {
	entry  *entry[V]
	result Result // of the starter: miss, wait, hit or bypass
	stored bool
	err    error
	// notAfter is set where the fill was overtaken by something newer, perhaps a deletion, or went on without Redis: its
	// value is for requests that came before it began, and too old for later ones.
	notAfter time.Time
}

// boarding is one request's place in a flight.
type boarding[V any] struct {
	*flight[V]
	starter bool
	// inTime says that the request came before the flight asked for the lease.
	inTime bool
}

// join boards the key's flight, or starts it. after is the created-at, as tryLease takes it, that a stored value must
// exceed.
func (c *Cache[V]) join(ctx context.Context, key string, after int64, why cause) boarding[V] {
	c.mu.Lock()
	defer c.mu.Unlock()
	flights := c.flights
	if why == causeRefresh {
		flights = c.refreshes // what other flights find may be older than the call
	}
	if f := flights[key]; f != nil {
		return boarding[V]{f, false, !f.asked}
	}
	f := &flight[V]{done: make(chan struct{})}
	if c.closing {
		f.outcome.err = ErrShutdown
		close(f.done)
		return boarding[V]{f, true, true}
	}
	flights[key] = f

	// A request that has nothing to serve waits for the work and is charged for it. One that holds a stale value does
	// not: the work goes on behind it.
	end := func() {}
	if why == causeStale {
		var span trace.Span
		ctx, span = c.tel.startRefresh(c.options.Detach(ctx), trace.SpanContextFromContext(ctx))
		end = func() {
			addLink(span, linkHolder, f.holderFor(ctx))
			span.End()
		}
	} else {
		ctx = context.WithoutCancel(ctx)
	}
	c.background.Go(func() {
		defer end()
		ctx, stop := c.alive(ctx)
		defer stop()
		f.outcome = c.fly(ctx, key, f, after, why)
		if f.outcome.stored {
			c.local.forget(key) // what is older must not be served after this, whenever the message arrives
		}
		c.mu.Lock()
		if flights[key] == f {
			delete(flights, key)
		}
		c.mu.Unlock()
		close(f.done)
	})
	return boarding[V]{f, true, true}
}

// holderFor returns the span that the context's span waits for; none where it is not known, or does the work itself.
func (f *flight[V]) holderFor(ctx context.Context) trace.SpanContext {
	known := f.holder.Load()
	if known == nil || known.span.Equal(trace.SpanContextFromContext(ctx)) {
		return trace.SpanContext{}
	}
	return known.span
}

// replica returns where the work is done, or "" where that is not known.
func (f *flight[V]) replica() string {
	if known := f.holder.Load(); known != nil {
		return known.replica
	}
	return ""
}

// outdatedFor says that the flight has ended with a value that is too old for a request of the given time.
func (f *flight[V]) outdatedFor(asked time.Time) bool {
	select {
	case <-f.done:
		return !f.outcome.notAfter.IsZero() && asked.After(f.outcome.notAfter)
	default:
		return false
	}
}

// waiters counts the requests of this process that wait for a fill, by the replica that fills.
func (c *Cache[V]) waiters() map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting := map[string]int64{"": 0}
	for _, flights := range []map[string]*flight[V]{c.flights, c.refreshes} {
		for _, f := range flights {
			n := f.waiting.Load()
			if f.leads.Load() {
				n-- // its starter does not wait, it works
			}
			waiting[f.replica()] += max(0, n)
		}
	}
	return waiting
}

// await waits for the flight's end or for the context's. soft says that the request has a stale value to serve instead.
func (c *Cache[V]) await(ctx context.Context, b boarding[V], soft bool) Answer[V] {
	started := time.Now()
	b.waiting.Add(1)
	defer b.waiting.Add(-1)
	select {
	case <-ctx.Done():
		if !soft && !b.leads.Load() { // the soft timeout is no error to count
			c.tel.waited(ctx, b.replica(), "timeout", time.Since(started))
		}
		return Answer[V]{Info: Info{Result: ResultError, Holder: b.holderFor(ctx)}, Err: ctx.Err()}
	case <-b.done:
	}
	out := b.outcome
	if out.err != nil {
		err := fmt.Errorf("cache %s: %w", c.options.Name, out.err)
		return Answer[V]{Info: Info{Result: ResultError, Holder: b.holderFor(ctx)}, Err: err}
	}
	result := out.result
	if !b.starter && (result == ResultMiss || result == ResultWait) {
		result = ResultWait
		c.tel.waited(ctx, b.replica(), "flight", time.Since(started))
	}
	answer := c.answer(out.entry, result, c.clock.now())
	answer.Info.Stored, answer.Info.Holder = out.stored, b.holderFor(ctx)
	return answer
}

// answer wraps what was found: a value, or that there is none.
func (c *Cache[V]) answer(e *entry[V], result Result, now time.Time) Answer[V] {
	a := Answer[V]{Value: e.value, Info: e.info(result, now)}
	if e.absent {
		a.Err = fmt.Errorf("cache %s: %w", c.options.Name, ErrNotFound)
	}
	return a
}

func failure[V any](err error) Answer[V] {
	return Answer[V]{Info: Info{Result: ResultError}, Err: err}
}

// fly fills under the lease, or waits for the replica that does.
func (c *Cache[V]) fly(ctx context.Context, key string, f *flight[V], after int64, why cause) outcome[V] {
	// Long enough for a fill elsewhere and, should that replica die at its end, for the lease to expire.
	patience, cancel := context.WithTimeout(ctx, c.options.LoadTimeout+c.options.Lease)
	defer cancel()
	// Registered before the lease is asked for: a commit between the two must not go unnoticed.
	woken, unregister := c.wakeups.register(key)
	defer unregister()

	waited := newWait()
	c.mu.Lock()
	f.asked = true
	c.mu.Unlock()
	for {
		l, reply, err := c.tryLease(patience, key, after)
		switch {
		case err != nil && patience.Err() != nil:
			return outcome[V]{err: fmt.Errorf("waited %s for a fill elsewhere: %w",
				time.Since(waited.since), context.Cause(patience))}
		case err != nil:
			return c.bypass(ctx, key, f, err)
		case reply.status == leaseAcquired:
			return c.lead(ctx, key, f, l, why)
		case reply.status == leaseFilled && waited.times == 0:
			return outcome[V]{entry: reply.found, result: ResultHit, stored: true}
		case reply.status == leaseFilled:
			c.tel.waited(ctx, f.replica(), waited.endedBy, time.Since(waited.since))
			return outcome[V]{entry: reply.found, result: ResultWait, stored: true}
		case reply.status == leaseCooldown:
			f.holder.Store(&reply.holder)
			return outcome[V]{err: ErrCooldown}
		case reply.status == leaseUnreadable:
			// What is newer than it may be readable. Of bytes that are no value the script does not tell.
			after = max(after, reply.found.createdAt.UnixMicro())
			continue
		}
		if after == sinceNow {
			after = l.grantedAt.UnixMicro() // the time of the first call
		}
		f.holder.Store(&reply.holder)
		event(ctx, "lease.busy")
		waited.sleep(patience, woken, reply.lasts)
		if patience.Err() != nil {
			c.tel.waited(ctx, f.replica(), "timeout", time.Since(waited.since))
			return outcome[V]{err: fmt.Errorf("waited %s for a fill elsewhere: %w",
				time.Since(waited.since), context.Cause(patience))}
		}
	}
}

// take makes the flight do the work itself. Requests that wait for it wait for this span.
func (c *Cache[V]) take(ctx context.Context, f *flight[V]) {
	f.holder.Store(&holder{trace.SpanContextFromContext(ctx), c.options.Replica})
	f.leads.Store(true)
}

// lead fills under the lease, for all replicas.
func (c *Cache[V]) lead(ctx context.Context, key string, f *flight[V], l lease, why cause) outcome[V] {
	c.take(ctx, f)
	event(ctx, "lease.acquired")
	filled, err := c.fill(ctx, key, l, why)
	if err != nil {
		return outcome[V]{err: err}
	}
	landed := outcome[V]{entry: filled.entry, result: ResultMiss, stored: filled.committed}
	if filled.overtaken {
		landed.notAfter = l.granted
	}
	return landed
}

// bypass loads without Redis: at most one fill a key, and a few in all, in this process.
func (c *Cache[V]) bypass(ctx context.Context, key string, f *flight[V], unreachable error) outcome[V] {
	c.take(ctx, f)
	event(ctx, "lease.unavailable")
	ctx, cancel := context.WithTimeout(ctx, c.options.LoadTimeout)
	defer cancel()
	select {
	case c.bulkhead <- struct{}{}:
		defer func() { <-c.bulkhead }()
	case <-ctx.Done():
		return outcome[V]{err: fmt.Errorf("waited for one of %d fills to end: %w", c.options.Bulkhead, ctx.Err())}
	}
	begun, notAfter := c.clock.now(), time.Now()
	value, err := c.load(ctx, key)
	absent := errors.Is(err, ErrNotFound)
	if err != nil && !absent {
		return outcome[V]{err: errors.Join(err, unreachable)}
	}
	alone := &entry[V]{value: value, absent: absent, createdAt: begun, freshUntil: begun}
	return outcome[V]{entry: alone, result: ResultBypass, notAfter: notAfter}
}
