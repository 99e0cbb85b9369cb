package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// A flight is one process's attempt to come by a value that is missing or stale: all of its requests for the key board
// the same one. It belongs to none of them, so a passenger who leaves, also the first, changes nothing for the others.
type flight[V any] struct {
	done chan struct{}
	// aboard is how many requests are waiting for its end.
	aboard atomic.Int64
	// leads is true once this flight does the work itself; until then its starter is a waiter like the others.
	leads atomic.Bool
	// holder is whoever does the work, as soon as that is known.
	holder atomic.Pointer[holder]

	// Valid when done is closed.
	outcome outcome[V]
}

// holder is who does the work: the span in which it is done, and the replica.
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
	causeRefresh cause = "refresh" // somebody called Refresh
)

type outcome[V any] struct {
	entry  *entry[V]
	result Result // how the starter came by it: miss, wait, hit or bypass
	stored bool
	err    error
	// notAfter is set where the work was overtaken by something newer, perhaps a deletion, or went on without Redis: what
	// it brought is for requests that came before it began, and too old for those that came later.
	notAfter time.Time
}

// boarding is one request's place in a flight.
type boarding[V any] struct {
	*flight[V]
	starter bool
}

// join boards the key's flight, or starts it. seen is the value that is to be replaced, or nil.
func (c *Cache[V]) join(ctx context.Context, key string, seen *entry[V], why cause) boarding[V] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flights[key]; f != nil {
		return boarding[V]{f, false}
	}
	f := &flight[V]{done: make(chan struct{})}
	c.flights[key] = f

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
		f.outcome = c.fly(ctx, key, f, seen, why)
		c.mu.Lock()
		if c.flights[key] == f {
			delete(c.flights, key)
		}
		c.mu.Unlock()
		close(f.done)
	})
	return boarding[V]{f, true}
}

// holderFor returns the span that the context's waits for; none where nobody is known, or it does the work itself.
func (f *flight[V]) holderFor(ctx context.Context) trace.SpanContext {
	known := f.holder.Load()
	if known == nil || known.span.Equal(trace.SpanContextFromContext(ctx)) {
		return trace.SpanContext{}
	}
	return known.span
}

// replica is where the work is done, as far as that is known.
func (f *flight[V]) replica() string {
	if known := f.holder.Load(); known != nil {
		return known.replica
	}
	return ""
}

// outdatedFor says that the flight has landed with something that is too old for a request of the given time.
func (f *flight[V]) outdatedFor(asked time.Time) bool {
	select {
	case <-f.done:
		return !f.outcome.notAfter.IsZero() && asked.After(f.outcome.notAfter)
	default:
		return false
	}
}

// waiters counts, by the replica that they wait for, the requests of this process that wait for somebody else's work.
func (c *Cache[V]) waiters() map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting := map[string]int64{"": 0}
	for _, f := range c.flights {
		n := f.aboard.Load()
		if f.leads.Load() {
			n-- // its starter does not wait, it works
		}
		waiting[f.replica()] += max(0, n)
	}
	return waiting
}

// await waits for the flight's end or for the context's. stale is what the request could serve instead, or nil.
func (c *Cache[V]) await(ctx context.Context, b boarding[V], stale *entry[V]) Answer[V] {
	started := time.Now()
	b.aboard.Add(1)
	defer b.aboard.Add(-1)
	select {
	case <-ctx.Done():
		// For a request that holds a stale value this is the soft timeout, and no error to count.
		if stale == nil && !b.leads.Load() {
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

// answer wraps what was found: a value, or the knowledge that there is none.
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

// fly comes by the value: it fills under the lease, or waits for whoever does.
func (c *Cache[V]) fly(ctx context.Context, key string, f *flight[V], seen *entry[V], why cause) outcome[V] {
	// Patience for somebody else's fill and, should that one die at the end of it, for the lease to expire.
	patience, cancel := context.WithTimeout(ctx, c.options.LoadTimeout+c.options.Lease)
	defer cancel()
	// Registered before the lease is asked for: a commit between the two must not go unnoticed.
	woken, unregister := c.wakeups.register(key)
	defer unregister()

	waited := newWait()
	for {
		l, reply, err := c.tryLease(patience, key, seen)
		switch {
		case err != nil && patience.Err() != nil:
			return outcome[V]{err: fmt.Errorf("waited %s for a fill elsewhere: %w", time.Since(waited.since), err)}
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
			seen = reply.found
			continue
		}
		f.holder.Store(&reply.holder)
		event(ctx, "lease.busy")
		waited.sleep(patience, woken, reply.lasts)
		if patience.Err() != nil {
			c.tel.waited(ctx, f.replica(), "timeout", time.Since(waited.since))
			return outcome[V]{err: fmt.Errorf("waited %s for a fill elsewhere: %w", time.Since(waited.since), patience.Err())}
		}
	}
}

// take has the flight do the work itself: whoever waits for it waits for this span.
func (c *Cache[V]) take(ctx context.Context, f *flight[V]) {
	f.holder.Store(&holder{trace.SpanContextFromContext(ctx), c.options.Replica})
	f.leads.Store(true)
}

// lead fills under the lease, for everybody.
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

type fillResult[V any] struct {
	entry     *entry[V]
	committed bool
	overtaken bool // Redis has refused it, as opposed to not being heard
}

// fill runs the loader under the lease and commits what it returns.
func (c *Cache[V]) fill(ctx context.Context, key string, l lease, why cause) (fillResult[V], error) {
	ctx, span := c.tel.startFill(ctx)
	defer span.End()
	deadline, cancel := context.WithTimeout(ctx, c.options.LoadTimeout)
	defer cancel()
	go c.keepAlive(deadline, key, l)

	value, err := c.load(deadline, key)
	took := time.Since(l.granted)
	cancel()
	filled := &entry[V]{
		value:     value,
		absent:    errors.Is(err, ErrNotFound),
		createdAt: l.grantedAt,
		fillTime:  took,
		token:     l.token,
		producer:  span.SpanContext(),
	}
	ttl, staleFor := c.options.TTL, c.options.StaleFor
	if filled.absent {
		ttl, staleFor, err = c.options.NegativeTTL, 0, nil
	}
	filled.freshUntil = l.grantedAt.Add(took + jittered(ttl, c.options.Jitter))

	var encoded []byte
	if err == nil {
		encoded, err = filled.encode(c.codec)
	}
	if err == nil && len(encoded) > c.options.MaxValueSize {
		c.tel.refused(ctx, refusedTooLarge)
		err = fmt.Errorf("%w: %d bytes, and %d are allowed", ErrValueTooLarge, len(encoded), c.options.MaxValueSize)
	}
	if err != nil {
		c.tel.filled(ctx, why, "failed", took)
		recordError(span, err)
		return fillResult[V]{}, errors.Join(err, c.cool(ctx, key, l))
	}
	committed, err := c.commit(ctx, key, l, encoded, filled.freshUntil.Sub(l.grantedAt)+staleFor)
	if !committed {
		// A value that could not be stored is a value all the same: those who wait for this flight get it.
		c.tel.filled(ctx, why, "lost", took)
		recordError(span, err)
		return fillResult[V]{entry: filled, overtaken: err == nil}, nil
	}
	c.tel.filled(ctx, why, "committed", took)
	return fillResult[V]{entry: filled, committed: true}, nil
}

// load runs the loader and returns at the latest when the context ends: a loader that ignores its deadline is left
// behind, so that it cannot hold the lease. A panic is an error like any other.
func (c *Cache[V]) load(ctx context.Context, key string) (V, error) {
	type loaded struct {
		value V
		err   error
	}
	done := make(chan loaded, 1)
	go func() {
		var l loaded
		defer func() {
			if p := recover(); p != nil {
				l.err = fmt.Errorf("load panicked: %v\n%s", p, debug.Stack())
			}
			done <- l
		}()
		l.value, l.err = c.options.Load(ctx, key)
	}()
	select {
	case l := <-done:
		if l.err != nil {
			return l.value, fmt.Errorf("load: %w", l.err)
		}
		return l.value, nil
	case <-ctx.Done():
		return *new(V), fmt.Errorf("load: %w", ctx.Err())
	}
}
