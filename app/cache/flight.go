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
	// leads is true once this flight does the work itself; until then its starter is a waiter like the others.
	leads atomic.Bool
	// holder is the span of whoever does the work, as soon as that is known.
	holder atomic.Pointer[trace.SpanContext]

	// Valid when done is closed.
	outcome outcome[V]
}

type outcome[V any] struct {
	entry  *entry[V]
	result Result // how the starter came by it: miss, wait, hit or bypass
	stored bool
	err    error
}

// boarding is one request's place in a flight.
type boarding[V any] struct {
	*flight[V]
	starter bool
}

// join boards the key's flight, or starts it. seen is the stale value that is to be replaced, or nil.
func (c *Cache[V]) join(ctx context.Context, key string, seen *entry[V]) boarding[V] {
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
	if seen == nil {
		ctx = context.WithoutCancel(ctx)
	} else {
		var span trace.Span
		ctx, span = c.tel.startRefresh(c.options.Detach(ctx), trace.LinkFromContext(ctx))
		end = func() { span.End() }
	}
	c.background.Go(func() {
		defer end()
		f.outcome = c.fly(ctx, key, f, seen)
		c.mu.Lock()
		if c.flights[key] == f {
			delete(c.flights, key)
		}
		c.mu.Unlock()
		close(f.done)
	})
	return boarding[V]{f, true}
}

// forgetFlight lets those who come from now on start anew: what the present flight brings may have been deleted.
func (c *Cache[V]) forgetFlight(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.flights, key)
}

// await waits for the flight's end or for the context's.
func (c *Cache[V]) await(ctx context.Context, b boarding[V], stale *entry[V]) (V, Info, error) {
	started := time.Now()
	if !b.starter {
		defer c.tel.waiting(ctx)()
	}
	holder := func() (sc trace.SpanContext) {
		if known := b.holder.Load(); known != nil {
			sc = *known
		}
		return sc
	}
	select {
	case <-ctx.Done():
		// For a request that holds a stale value this is the soft timeout, and no error to count.
		if stale == nil && !b.leads.Load() {
			c.tel.waited(ctx, "timeout", time.Since(started))
		}
		return *new(V), Info{Result: ResultError, Holder: holder()}, ctx.Err()
	case <-b.done:
	}
	out := b.outcome
	if out.err != nil {
		return *new(V), Info{Result: ResultError, Holder: holder()}, fmt.Errorf("cache %s: %w", c.options.Name, out.err)
	}
	result := out.result
	if !b.starter && (result == ResultMiss || result == ResultWait) {
		result = ResultWait
		c.tel.waited(ctx, "flight", time.Since(started))
	}
	info := out.entry.info(result, c.clock.now())
	info.Stored = out.stored
	if result == ResultWait {
		info.Holder = holder()
	}
	return out.entry.value, info, nil
}

// fly comes by the value: it fills under the lease, or waits for whoever does.
func (c *Cache[V]) fly(ctx context.Context, key string, f *flight[V], seen *entry[V]) outcome[V] {
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
			return c.lead(ctx, key, f, l)
		case reply.status == leaseFilled && waited.times == 0:
			return outcome[V]{entry: reply.found, result: ResultHit, stored: true}
		case reply.status == leaseFilled:
			c.tel.waited(ctx, waited.endedBy, time.Since(waited.since))
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
		stopWaiting := c.tel.waiting(ctx)
		waited.sleep(patience, woken, reply.lasts)
		stopWaiting()
		if patience.Err() != nil {
			c.tel.waited(ctx, "timeout", time.Since(waited.since))
			return outcome[V]{err: fmt.Errorf("waited %s for a fill elsewhere: %w", time.Since(waited.since), patience.Err())}
		}
	}
}

// lead fills under the lease, for everybody.
func (c *Cache[V]) lead(ctx context.Context, key string, f *flight[V], l lease) outcome[V] {
	here := trace.SpanContextFromContext(ctx)
	f.holder.Store(&here)
	f.leads.Store(true)
	event(ctx, "lease.acquired")
	filled, err := c.fill(ctx, key, l)
	if err != nil {
		return outcome[V]{err: err}
	}
	return outcome[V]{entry: filled.entry, result: ResultMiss, stored: filled.committed}
}

// bypass loads without Redis: at most one fill a key and process.
func (c *Cache[V]) bypass(ctx context.Context, key string, f *flight[V], cause error) outcome[V] {
	f.leads.Store(true)
	event(ctx, "lease.unavailable")
	ctx, cancel := context.WithTimeout(ctx, c.options.LoadTimeout)
	defer cancel()
	begun := c.clock.now()
	value, err := c.load(ctx, key)
	if err != nil {
		return outcome[V]{err: errors.Join(err, cause)}
	}
	return outcome[V]{entry: &entry[V]{value: value, createdAt: begun, freshUntil: begun}, result: ResultBypass}
}

type fillResult[V any] struct {
	entry     *entry[V]
	committed bool
}

// fill runs the loader under the lease and commits what it returns.
func (c *Cache[V]) fill(ctx context.Context, key string, l lease) (fillResult[V], error) {
	ctx, span := c.tel.startFill(ctx)
	defer span.End()
	deadline, cancel := context.WithTimeout(ctx, c.options.LoadTimeout)
	defer cancel()
	go c.keepAlive(deadline, key, l)

	value, err := c.load(deadline, key)
	took := time.Since(l.granted)
	cancel()
	filled := fillResult[V]{entry: &entry[V]{
		value:      value,
		createdAt:  l.grantedAt,
		freshUntil: l.grantedAt.Add(took + jittered(c.options.TTL, c.options.Jitter)),
		fillTime:   took,
		token:      l.token,
		producer:   span.SpanContext(),
	}}
	var encoded []byte
	if err == nil {
		encoded, err = filled.entry.encode(c.codec)
	}
	if err != nil {
		c.tel.filled(ctx, "failed", took)
		recordError(span, err)
		return fillResult[V]{}, errors.Join(err, c.cool(ctx, key, l))
	}
	keep := filled.entry.freshUntil.Sub(l.grantedAt) + c.options.StaleFor
	filled.committed, err = c.commit(ctx, key, l, encoded, keep)
	if !filled.committed {
		// A value that could not be stored is a value all the same: those who wait for this flight get it.
		c.tel.filled(ctx, "lost", took)
		recordError(span, err)
		return filled, nil
	}
	c.tel.filled(ctx, "committed", took)
	return filled, nil
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
