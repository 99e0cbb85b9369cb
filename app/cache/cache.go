// Package cache gives the replicas of a service a shared memory in Redis that cannot stampede: of all requests, on all
// replicas, that miss a key at the same moment, one computes the value and the others wait for it or take the previous
// value while it lasts.
//
// # How it works
//
// A hit is one plain GET. On a miss the callers of one process share a flight, and the flights of all processes compete
// for a lease, a key in Redis that expires with its holder. The winner fills: it runs the loader, keeps its lease alive
// meanwhile, and commits value, release and wake-up in one step. The others sleep until the commit's message wakes them
// (a jittered poll stands behind a lost message), and take over when the lease expires. Shortly before a value expires
// one request has it refreshed in the background, so that under steady load nobody waits at all; after it has expired
// it may still be served, marked stale, while it is refreshed.
//
// # What it promises
//
// At most one fill of a key runs while the lease key survives. A newer value is never overwritten by an older one,
// where newer means begun later by Redis's clock. Deleted data does not come back: a fill that began before Delete
// cannot commit.
//
// # How it fails
//
// Redis lost: after five failures in a row it is left alone for a second at a time; meanwhile each process serves its
// local copies, if it keeps any, and else computes for itself, one fill a key and a few in all at a time, and stores
// nothing (result bypass). The lease lost in mid-fill (a pause longer than the lease, an eviction, a flush): a second
// fill may run, but the guards of the commit keep the order. A fill that fails, panics or overruns its deadline: one
// error for all who waited and a short cooldown for those who come next, with the stale value, if there is one, served
// instead. A value that cannot be decoded is a miss, counted. A deletion that a replica was not told of, because its
// subscription was down at that moment, leaves that replica's local copy for LocalTTL.
//
// The algorithm descends from the leases of Nishtala et al., "Scaling Memcache at Facebook" (NSDI 2013); to lift it,
// copy this folder: it needs go-redis, gobreaker and the OpenTelemetry API. ReadThrough, beside it, is the usual cache
// without any of this, kept to be compared with.
package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"
)

var (
	// ErrCooldown answers a Get while a failed fill keeps others from trying again at once.
	ErrCooldown = errors.New("the last fill failed a moment ago")

	// ErrNotFound is what a loader returns for a key that has no value. Get returns it, wrapped, from memory too.
	ErrNotFound = errors.New("there is no such value")

	// ErrValueTooLarge is why a value above Options.MaxValueSize is refused.
	ErrValueTooLarge = errors.New("the value is too large to be shared")
)

// Cache is the shared memory of one kind of value. Its methods are safe for concurrent use.
type Cache[V any] struct {
	rdb      redis.UniversalClient
	options  Options[V]
	codec    Codec[V]
	clock    serverClock
	tel      *instruments
	wakeups  wakeups
	breaker  breaker
	local    local[V]
	bulkhead chan struct{}

	mu         sync.Mutex
	flights    map[string]*flight[V]
	refreshing map[string]bool
	background sync.WaitGroup
}

// New returns a cache of values that options.Load computes. It panics on options that cannot work, because those are a
// fault of the program and not of its environment.
//
// For waiters to be woken by push, and for deletions elsewhere to reach local copies, somebody must keep Run going;
// without it waiters poll.
func New[V any](rdb redis.UniversalClient, options Options[V]) *Cache[V] {
	options = options.withDefaults()
	tel := newInstruments(options.Name, StrategyLease, options.TracerProvider, options.MeterProvider)
	c := &Cache[V]{
		rdb:        rdb,
		options:    options,
		codec:      options.Codec,
		tel:        tel,
		breaker:    newBreaker(options.Name, tel.breakerChanged),
		local:      local[V]{ttl: options.LocalTTL, size: options.LocalSize, copies: map[string]localCopy[V]{}},
		bulkhead:   make(chan struct{}, options.Bulkhead),
		flights:    map[string]*flight[V]{},
		refreshing: map[string]bool{},
	}
	tel.observeWaiters(c.waiters)
	tel.observeTTL(options.TTL)
	return c
}

// Get returns the value of key and how it was come by. The error is the loader's, wrapped, when a value was needed and
// none could be computed; ErrNotFound where the loader says that there is none; ErrCooldown shortly after a failure; or
// the context's, when the caller's patience ended first, which ends nothing but the caller's own wait.
func (c *Cache[V]) Get(ctx context.Context, key string) (V, Info, error) {
	ctx, span := c.tel.startGet(ctx)
	defer span.End()
	answer := c.get(ctx, key)
	c.tel.answered(ctx, span, answer.Info, answer.Err)
	return answer.Value, answer.Info, answer.Err
}

func (c *Cache[V]) get(ctx context.Context, key string) Answer[V] {
	if copied := c.local.fresh(key, c.clock.now()); copied != nil {
		return c.serve(ctx, key, copied, nil)
	}
	found, err := c.read(ctx, key)
	return c.serve(ctx, key, found, err)
}

// serve answers with what was found, or comes by what was not.
func (c *Cache[V]) serve(ctx context.Context, key string, found *entry[V], err error) Answer[V] {
	now := c.clock.now()
	switch {
	case err != nil && ctx.Err() != nil:
		return failure[V](ctx.Err())
	case err != nil:
		if found = c.local.last(key).entry; found == nil || c.expired(found, now) {
			// The flight finds Redis out of reach as well, and loads for this process alone.
			return c.await(ctx, c.join(ctx, key, nil, causeMiss), nil)
		}
		if now.After(found.freshUntil) {
			return c.answer(found, ResultStale, now)
		}
		return c.answer(found, ResultHit, now)
	case found == nil || c.expired(found, now):
		return c.fetch(ctx, key)
	case now.After(found.freshUntil):
		return c.serveStale(ctx, key, found)
	case found.freshUntil.Sub(now) < c.refreshMargin(found) && !found.absent:
		c.refreshEarly(ctx, key, found)
	}
	return c.answer(found, ResultHit, now)
}

// expired says that a value may not even be served stale. Redis keeps it for longer, to refuse what is older.
func (c *Cache[V]) expired(found *entry[V], now time.Time) bool {
	end := found.freshUntil
	if !found.absent {
		end = end.Add(c.options.StaleFor)
	}
	return now.After(end)
}

// fetch comes by the value for a request that has nothing to serve. Twice at most, because the second flight takes off
// after the request has come.
func (c *Cache[V]) fetch(ctx context.Context, key string) Answer[V] {
	asked := time.Now()
	for {
		b := c.join(ctx, key, nil, causeMiss)
		answer := c.await(ctx, b, nil)
		if ctx.Err() != nil || !b.outdatedFor(asked) {
			return answer
		}
	}
}

// serveStale gives the refresh that it starts or joins a moment to finish, and then serves what it has.
func (c *Cache[V]) serveStale(ctx context.Context, key string, found *entry[V]) Answer[V] {
	f := c.join(ctx, key, found, causeStale)
	var holder trace.SpanContext
	if c.options.SoftTimeout > 0 {
		soft, cancel := context.WithTimeout(ctx, c.options.SoftTimeout)
		defer cancel()
		// That there is no value any more is an answer too.
		fresh := c.await(soft, f, found)
		if fresh.Err == nil || errors.Is(fresh.Err, ErrNotFound) {
			return fresh
		}
		holder = fresh.Info.Holder
	}
	stale := c.answer(found, ResultStale, c.clock.now())
	stale.Info.Holder = holder
	return stale
}

// Refresh computes the value of key anew and returns it: nothing that was begun before the call counts. Calls at the
// same moment, on all replicas, share one fill.
func (c *Cache[V]) Refresh(ctx context.Context, key string) (V, Info, error) {
	ctx, span := c.tel.startGet(ctx)
	defer span.End()
	// Asked for in the name of a value of this moment, the lease is answered only with something newer.
	now := &entry[V]{createdAt: c.clock.now()}
	b := c.join(ctx, key, now, causeRefresh)
	if !b.starter {
		// This flight may have read what has changed since. Whatever takes off after it has not.
		c.await(ctx, b, nil)
		b = c.join(ctx, key, now, causeRefresh)
	}
	answer := c.await(ctx, b, nil)
	c.tel.answered(ctx, span, answer.Info, answer.Err)
	return answer.Value, answer.Info, answer.Err
}

// refreshMargin is how long before its end a value is refreshed: early enough for a fill to take twice as long as the
// last one. XFetch's randomness (Vattani et al., VLDB 2015) is for caches that have no lease.
func (c *Cache[V]) refreshMargin(found *entry[V]) time.Duration {
	lifetime := found.freshUntil.Sub(found.createdAt)
	return min(max(lifetime/10, 2*found.fillTime), lifetime/2)
}

// refreshEarly fills in the background behind a lease that it tries for once: whoever holds it is refreshing already.
func (c *Cache[V]) refreshEarly(ctx context.Context, key string, seen *entry[V]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refreshing[key] {
		return
	}
	c.refreshing[key] = true
	event(ctx, "refresh.early") // what tells this hit from others: a trace links to it
	c.background.Go(func() {
		defer func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.refreshing, key)
		}()
		ctx, span := c.tel.startRefresh(c.options.Detach(ctx), trace.SpanContextFromContext(ctx))
		defer span.End()
		l, reply, err := c.tryLease(ctx, key, seen)
		addLink(span, linkHolder, reply.holder.span)
		if err == nil && reply.status == leaseAcquired {
			_, err = c.fill(ctx, key, l, causeEarly)
		}
		recordError(span, err)
	})
}

// Delete forgets the value of key, for every replica, and has fills that are under way end without storing theirs.
// Callers who come after it never see what was there before; those who were waiting may.
func (c *Cache[V]) Delete(ctx context.Context, key string) error {
	// Before as well as after: a request of this process that comes in between must not keep what it reads.
	c.forget(key)
	defer c.forget(key)
	err := c.breaker.do(ctx, func() error {
		// The tombstone must outlive every fill that began before it.
		return c.bury(ctx, key, c.options.memory())
	})
	if err != nil {
		return fmt.Errorf("cache %s: delete: %w", c.options.Name, err)
	}
	c.tel.deleted(ctx)
	return nil
}

// forget drops what this process has of the key: its copy, and the flight that may bring what was deleted, so that
// those who come from now on start anew.
func (c *Cache[V]) forget(key string) {
	c.local.forget(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.flights, key)
}

// Run listens for the messages that wake waiters, until the context ends; then it waits for the refreshes that are
// under way, each of which ends by its own deadline. It returns nil.
func (c *Cache[V]) Run(ctx context.Context) error {
	c.wakeups.listen(ctx, c.rdb, c.channel(), c.local.forget, c.forget)
	c.background.Wait()
	return nil
}

// jittered shortens the TTL by a random part, so that values written together do not expire together.
func jittered(ttl time.Duration, jitter float64) time.Duration {
	return ttl - time.Duration(rand.Float64()*jitter*float64(ttl))
}

func (c *Cache[V]) valueKey(key string) string { return "cache:{" + key + "}" }
func (c *Cache[V]) leaseKey(key string) string { return "lease:{" + key + "}" }
func (c *Cache[V]) channel() string            { return "cache:" + c.options.Name }
