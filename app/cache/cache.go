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
// Redis lost: each process computes for itself, one fill a key at a time, and stores nothing (result bypass). The
// lease lost in mid-fill (a pause longer than the lease, an eviction, a flush): a second fill may run, but the guards
// of the commit keep the order. A fill that fails, panics or overruns its deadline: one error for all who waited and a
// short cooldown for those who come next, with the stale value, if there is one, served instead. A value that cannot be
// decoded is a miss.
//
// The algorithm descends from the leases of Nishtala et al., "Scaling Memcache at Facebook" (NSDI 2013); to lift it,
// copy this folder: it needs go-redis and the OpenTelemetry API. ReadThrough, beside it, is the usual cache without
// any of this, kept to be compared with.
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

// ErrCooldown answers a Get while a failed fill keeps others from trying again at once.
var ErrCooldown = errors.New("the last fill failed a moment ago")

// Cache is the shared memory of one kind of value. Its methods are safe for concurrent use.
type Cache[V any] struct {
	rdb     redis.UniversalClient
	options Options[V]
	codec   Codec[V]
	clock   serverClock
	tel     *instruments
	wakeups wakeups

	mu         sync.Mutex
	flights    map[string]*flight[V]
	refreshing map[string]bool
	background sync.WaitGroup
}

// New returns a cache of values that options.Load computes. It panics on options that cannot work, because those are a
// fault of the program and not of its environment.
//
// For waiters to be woken by push, somebody must keep Run going; without it they poll.
func New[V any](rdb redis.UniversalClient, options Options[V]) *Cache[V] {
	options = options.withDefaults()
	return &Cache[V]{
		rdb:        rdb,
		options:    options,
		codec:      options.Codec,
		tel:        newInstruments(options.Name, StrategyLease, options.TracerProvider, options.MeterProvider),
		flights:    map[string]*flight[V]{},
		refreshing: map[string]bool{},
	}
}

// Get returns the value of key and how it was come by. The error is the loader's, wrapped, when a value was needed and
// none could be computed; ErrCooldown shortly after such a failure; or the context's, when the caller's patience ended
// first, which ends nothing but the caller's own wait.
func (c *Cache[V]) Get(ctx context.Context, key string) (V, Info, error) {
	ctx, span := c.tel.startGet(ctx)
	defer span.End()
	value, info, err := c.get(ctx, key)
	c.tel.answered(ctx, span, info, err)
	return value, info, err
}

func (c *Cache[V]) get(ctx context.Context, key string) (V, Info, error) {
	found, err := c.read(ctx, key)
	switch {
	case err != nil && ctx.Err() != nil:
		return *new(V), Info{Result: ResultError}, ctx.Err()
	case err != nil || found == nil:
		// With Redis out of reach the flight finds out again at its first command and then loads for itself.
		return c.await(ctx, c.join(ctx, key, nil), nil)
	}
	now := c.clock.now()
	if now.After(found.freshUntil) {
		return c.serveStale(ctx, key, found)
	}
	if found.freshUntil.Sub(now) < c.refreshMargin(found) {
		c.refresh(ctx, key, found)
	}
	return found.value, found.info(ResultHit, now), nil
}

// serveStale gives the refresh that it starts or joins a moment to finish, and then serves what it has.
func (c *Cache[V]) serveStale(ctx context.Context, key string, found *entry[V]) (V, Info, error) {
	f := c.join(ctx, key, found)
	if c.options.SoftTimeout > 0 {
		soft, cancel := context.WithTimeout(ctx, c.options.SoftTimeout)
		defer cancel()
		if value, info, err := c.await(soft, f, found); err == nil {
			return value, info, nil
		}
	}
	return found.value, found.info(ResultStale, c.clock.now()), nil
}

// refreshMargin is how long before its end a value is refreshed: early enough for a fill to take twice as long as the
// last one. XFetch's randomness (Vattani et al., VLDB 2015) is for caches that have no lease.
func (c *Cache[V]) refreshMargin(found *entry[V]) time.Duration {
	lifetime := found.freshUntil.Sub(found.createdAt)
	return min(max(lifetime/10, 2*found.fillTime), lifetime/2)
}

// refresh fills in the background behind a lease that it tries for once: whoever holds it is refreshing already.
func (c *Cache[V]) refresh(ctx context.Context, key string, seen *entry[V]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refreshing[key] {
		return
	}
	c.refreshing[key] = true
	c.background.Go(func() {
		defer func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.refreshing, key)
		}()
		ctx, span := c.tel.startRefresh(c.options.Detach(ctx), trace.LinkFromContext(ctx))
		defer span.End()
		l, reply, err := c.tryLease(ctx, key, seen)
		if err == nil && reply.status == leaseAcquired {
			_, err = c.fill(ctx, key, l)
		}
		recordError(span, err)
	})
}

// Delete forgets the value of key, for every replica, and has fills that are under way end without storing theirs.
// Callers who come after it never see what was there before; those who were waiting may.
func (c *Cache[V]) Delete(ctx context.Context, key string) error {
	c.forgetFlight(key)
	// The tombstone must outlive every fill that began before it.
	if err := c.bury(ctx, key, c.options.LoadTimeout+c.options.Lease); err != nil {
		return fmt.Errorf("cache %s: delete: %w", c.options.Name, err)
	}
	return nil
}

// Run listens for the messages that wake waiters, until the context ends; then it waits for the refreshes that are
// under way, each of which ends by its own deadline. It returns nil.
func (c *Cache[V]) Run(ctx context.Context) error {
	c.wakeups.listen(ctx, c.rdb, c.channel(), c.forgetFlight)
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
