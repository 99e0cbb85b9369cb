// Package cache gives the replicas of a service a shared memory in Redis with stampede protection: of all requests, on
// all replicas, that miss a key at the same time, one computes the value. The others wait for it, or are served the
// previous value while it is computed.
//
// # Algorithm
//
// A hit is one plain GET. On a miss the requests of one process share a flight, and the flights of all processes
// compete for a lease: a key in Redis that expires if its holder dies. The holder fills: it runs the loader, extends
// its lease meanwhile, and commits value, release and wake-up in one script. The others wait for the commit's message
// (a jittered poll stands behind a lost message) and take over when the lease expires. Shortly before a value expires
// one request refreshes it in the background, so that under steady load no request waits. After it has expired it may
// be served for some time, marked stale, while it is refreshed.
//
// The algorithm descends from the leases of Nishtala et al., "Scaling Memcache at Facebook" (NSDI 2013).
//
// # Promises
//
// At most one fill of a key and version runs while the lease key survives. A newer value is never overwritten by an
// older one; newer means that its fill began later by Redis's clock. Deleted data does not come back: a fill that began
// before Delete cannot commit, in this version of the values or another. Refresh never returns a value that was begun
// before the call.
//
// Where they hold:
//
//   - One server, over TCP, TLS or a unix socket: as stated.
//   - Sentinel, and a Cluster with replicas: as stated while no failover happens. Replication is asynchronous, so a
//     failover may lose the last leases, values and tombstones: there is at most one fill more for each failover, and a
//     deletion whose tombstone is lost does not refuse the fill that was running. Delete again after a failover if that
//     matters.
//   - A Cluster: all of a key lies in one slot. Local copies rely on shard channels.
//   - A Redis user without channels, or without SCRIPT LOAD: as stated, in reduced mode: waiters poll instead of being
//     woken, and no local copy is served while Redis answers. MetricReduced and one log line say so.
//
// Redis 7.0 is the oldest server whose scripts can be used; Valkey works too.
//
// # Failures
//
// Redis fails or refuses: after five failures in a row the circuit breaker (on a Cluster, that of the master) opens for
// a second. Meanwhile each process serves its local copies as stale, if it keeps any, and else computes for itself, one
// fill a key and a few in all at a time, and stores nothing (result bypass).
//
// The lease is lost during a fill (a pause longer than the lease, an eviction, a flush): a second fill may run, but the
// guards of the commit keep the order. A fill fails, panics or overruns its deadline: one error for all that wait, and
// a short cooldown for those that come next, with the stale value, if there is one, served instead. A value that cannot
// be decoded is a miss and is counted.
//
// A local copy is served as a hit only while messages published through the key's master arrive. A deletion on another
// replica reaches it with the message. If that message is lost, the copy ends after at most LocalTTL, and mostly after
// trustFor (1.5 s). After a FLUSHALL a copy is served for at most LocalTTL.
//
// # Memory
//
// A process holds LocalSize copies, 10,000 keys whose lease is taken elsewhere, and one flight for each key that is
// being filled.
//
// To use it elsewhere, copy this folder. It needs go-redis, gobreaker, x/sync and the OpenTelemetry API. ReadThrough is
// the usual cache without protection, kept for comparison.
package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
)

var (
	// ErrCooldown is the error of a Get shortly after a failed fill, while no replica tries again.
	ErrCooldown = errors.New("the last fill failed a moment ago")

	// ErrNotFound is what a loader returns for a key that has no value. Get returns it, wrapped, from memory too.
	ErrNotFound = errors.New("there is no such value")

	// ErrValueTooLarge refuses a value above Options.MaxValueSize.
	ErrValueTooLarge = errors.New("the value is too large to be shared")

	// ErrShutdown is the error of a request that needs a fill after Shutdown.
	ErrShutdown = errors.New("the cache is shut down")
)

// Cache is the shared memory of one kind of value. Its methods are safe for concurrent use.
type Cache[V any] struct {
	rdb          redis.UniversalClient
	options      Options[V]
	codec        Codec[V]
	names        names
	registration *registration
	clock        serverClock
	tel          *instruments
	wakeups      wakeups
	breaker      *breaker
	reduced      reduced
	taken        taken
	bulkhead     chan struct{}

	local  local[V]
	feed   atomic.Pointer[feed] // of all keys; on a Cluster nil, where shards has the feeds
	shards *shards              // nil but on a Cluster

	mu         sync.Mutex
	flights    map[string]*flight[V]
	refreshes  map[string]*flight[V] // those that Refresh has started
	refreshing map[string]bool       // keys with an early refresh
	background sync.WaitGroup
	closing    bool
	// life ends when Shutdown cancels what is left.
	life context.Context
	kill context.CancelCauseFunc
}

// New returns a cache of values that options.Load computes. It panics on options that cannot work, and names all of
// them: they are a fault of the program and not of its environment.
//
// Run must run for waiters to be woken by push and for local copies to be served. Without it waiters poll.
func New[V any](rdb redis.UniversalClient, options Options[V]) *Cache[V] {
	options = options.withDefaults()
	tel := newInstruments(options.Name, StrategyLease, options.TracerProvider, options.MeterProvider)
	names := newNames(options.Namespace, options.Name, options.Version)
	c := &Cache[V]{
		rdb:     rdb,
		options: options,
		codec:   options.Codec,
		names:   names,
		registration: &registration{
			rdb: rdb, key: names.versions, member: version{options.Version, options.memory()}.member(),
			keeps: options.TTL + options.StaleFor + options.memory(),
		},
		tel:        tel,
		breaker:    newBreaker(options.Name, tel.breakerChanged),
		reduced:    reduced{cache: options.Name},
		bulkhead:   make(chan struct{}, options.Bulkhead),
		flights:    map[string]*flight[V]{},
		refreshes:  map[string]*flight[V]{},
		refreshing: map[string]bool{},
	}
	c.life, c.kill = context.WithCancelCause(context.Background())
	c.local = local[V]{
		ttl: options.LocalTTL, size: options.LocalSize,
		copies: map[string]localCopy[V]{}, reads: map[string]*localRead{}, evicted: c.uncover,
	}
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		c.breaker.onCluster(cluster)
		c.shards = &shards{
			cluster: cluster, limit: options.LocalSize, forget: c.local.forget, hear: c.hear,
			publish: func(ctx context.Context, channel string) { c.heartbeat(ctx, rdb.SPublish, channel) },
			refused: func(err error) { c.reduced.set(c.life, capabilitySubscribe, err != nil, err) },
			byNode:  map[string]*shardFeed{}, uncovered: map[string]string{}, byChannel: map[string]*shardChannel{},
		}
	}
	tel.observeWaiters(c.waiters)
	tel.observeTTL(options.TTL)
	c.reduced.observe(tel)
	return c
}

// Get returns the value of key and where it is from. The error is the loader's, wrapped, when a value was needed and
// could not be computed; ErrNotFound where the loader has no value; ErrCooldown shortly after a failure; or the
// context's, when it ended first, which ends only this caller's wait.
func (c *Cache[V]) Get(ctx context.Context, key string) (V, Info, error) {
	ctx, span := c.tel.startGet(ctx)
	defer span.End()
	answer := c.get(ctx, key)
	c.tel.answered(ctx, span, answer.Info, answer.Err)
	return answer.Value, answer.Info, answer.Err
}

func (c *Cache[V]) get(ctx context.Context, key string) Answer[V] {
	if copied := c.local.fresh(key, c.clock.now()); copied != nil {
		answer := c.serve(ctx, key, copied, nil)
		answer.Info.Local = answer.Info.Result == ResultHit
		return answer
	}
	found, err := c.read(ctx, key)
	return c.serve(ctx, key, found, err)
}

// serve answers with what was found, or with what a flight brings.
func (c *Cache[V]) serve(ctx context.Context, key string, found *entry[V], err error) Answer[V] {
	now := c.clock.now()
	switch {
	case err != nil && ctx.Err() != nil:
		return failure[V](ctx.Err())
	case err != nil:
		if found = c.local.last(key); found == nil || c.expired(found, now) {
			// The flight finds Redis out of reach as well, and loads for this process alone.
			return c.await(ctx, c.join(ctx, key, 0, causeMiss), false)
		}
		return c.answer(found, ResultStale, now) // it cannot be known whether it was replaced
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

// fetch returns the value for a request that has nothing to serve. It takes two flights at most, because the second one
// starts after the request.
func (c *Cache[V]) fetch(ctx context.Context, key string) Answer[V] {
	asked := time.Now()
	for {
		b := c.join(ctx, key, 0, causeMiss)
		answer := c.await(ctx, b, false)
		if ctx.Err() != nil || !b.outdatedFor(asked) {
			return answer
		}
	}
}

// serveStale starts or joins a refresh, waits for it for the soft timeout, and then serves the stale value. It does not
// wait where that is known to be in vain.
func (c *Cache[V]) serveStale(ctx context.Context, key string, found *entry[V]) Answer[V] {
	if c.taken.status(key) == leaseCooldown {
		return c.answer(found, ResultStale, c.clock.now())
	}
	f := c.join(ctx, key, found.createdAt.UnixMicro(), causeStale)
	var holder trace.SpanContext
	if c.options.SoftTimeout > found.fillTime {
		soft, cancel := context.WithTimeout(ctx, c.options.SoftTimeout)
		defer cancel()
		fresh := c.await(soft, f, true)
		if fresh.Err == nil || errors.Is(fresh.Err, ErrNotFound) { // that there is no value any more is an answer too
			return fresh
		}
		holder = fresh.Info.Holder
	}
	stale := c.answer(found, ResultStale, c.clock.now())
	stale.Info.Holder = holder
	return stale
}

// refreshMargin is how long before its end a value is refreshed: early enough for a fill to take twice as long as the
// last one. XFetch's randomness (Vattani et al., VLDB 2015) is for caches that have no lease.
func (c *Cache[V]) refreshMargin(found *entry[V]) time.Duration {
	lifetime := found.freshUntil.Sub(found.createdAt)
	return min(max(lifetime/10, 2*found.fillTime), lifetime/2)
}

// refreshEarly fills in the background under a lease that it asks for once: if another replica holds it, that one is
// refreshing.
func (c *Cache[V]) refreshEarly(ctx context.Context, key string, seen *entry[V]) {
	if c.taken.status(key) != "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refreshing[key] || c.closing {
		return
	}
	c.refreshing[key] = true
	event(ctx, "refresh.early") // the refresh's trace links to this hit
	c.background.Go(func() {
		defer func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.refreshing, key)
		}()
		ctx, span := c.tel.startRefresh(c.options.Detach(ctx), trace.SpanContextFromContext(ctx))
		defer span.End()
		ctx, end := c.alive(ctx)
		defer end()
		l, reply, err := c.tryLease(ctx, key, seen.createdAt.UnixMicro())
		addLink(span, linkHolder, reply.holder.span)
		if err == nil && reply.status == leaseAcquired {
			_, err = c.fill(ctx, key, l, causeEarly)
			c.local.forget(key)
		}
		recordError(span, err)
	})
}

// Delete forgets the value of key, in all versions and for all replicas, and refuses the values of fills that are
// running. A Get that begins after it never returns what was there before. One that was waiting may.
func (c *Cache[V]) Delete(ctx context.Context, key string) error {
	// Before as well as after: a request of this process that comes in between must not keep what it reads.
	c.forget(key)
	defer c.forget(key)
	err := c.bury(ctx, key)
	if err != nil {
		return fmt.Errorf("cache %s: delete: %w", c.options.Name, err)
	}
	c.tel.deleted(ctx)
	return nil
}

// bury leaves a tombstone in every version. It stays longer than every fill of that version that began before it.
func (c *Cache[V]) bury(ctx context.Context, key string) error {
	var versions []version
	err := c.breaker.do(ctx, c.names.versions, func() (err error) {
		versions, err = c.versions(ctx)
		return err
	})
	if err != nil {
		return err
	}
	var keys []string
	var stay []any
	for _, v := range versions {
		n := newNames(c.options.Namespace, c.options.Name, v.name)
		keys = append(keys, n.valueKey(key), n.leaseKey(key))
		stay = append(stay, v.memory.Milliseconds())
	}
	return c.breaker.do(ctx, c.names.valueKey(key), func() error {
		refused, err := c.publishing(ctx, deleteScript, keys, wasDeleted, key, stay...).Int64()
		if err != nil {
			return err
		}
		c.published(ctx, refused)
		return nil
	})
}

// forget drops what this process has of the key: its copy, and the flight that may bring what was deleted, so that
// later requests start a new one.
func (c *Cache[V]) forget(key string) {
	c.local.forget(key)
	c.taken.forget(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.flights, key)
}

// uncover ends the subscription of a copy that was evicted.
func (c *Cache[V]) uncover(key string) {
	if c.shards != nil {
		go c.shards.drop(c.names.shardChannel(key))
	}
}

// Run listens for messages about keys and keeps the version registered, until the context ends. It returns nil. Fills
// that are running go on: see Shutdown.
func (c *Cache[V]) Run(ctx context.Context) error {
	if c.shards != nil && c.local.ttl > 0 {
		c.shards.start(ctx)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		c.registration.renew(ctx, c.options.Detach)
		return nil
	})
	group.Go(func() error {
		c.listen(ctx)
		return nil
	})
	return group.Wait()
}

// jittered shortens the TTL by a random part, so that values written together do not expire together.
func jittered(ttl time.Duration, jitter float64) time.Duration {
	return ttl - time.Duration(rand.Float64()*jitter*float64(ttl))
}
