// Package trending answers which posts move people now: the ten highest scores among the posts of the last 24 hours,
// where a view counts 1, a comment 5 and a share 10.
//
// The answer is expensive, the same for everybody, and may be some minutes old, which makes it the textbook case for
// shared memory. The naive ways to give it stay beside the protected one, see Strategy.
//
// How it fails: with Postgres busy beyond a bounded wait, ErrBusy; with a fill that failed a moment ago and nothing
// stale to serve, cache.ErrCooldown; else Postgres's error or the context's. With Redis out of reach every replica
// computes for itself.
package trending

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"nervous/app/cache"
	"nervous/app/roundtrips"
)

// Window is how far back a post may have been created.
const Window = 24 * time.Hour

// WindowName is Window as the answer and the cache's key spell it.
const WindowName = "24h"

// cacheKey is the hash tag of the keys in Redis.
const cacheKey = "trending:" + WindowName

// List is one answer.
type List struct {
	GeneratedAt time.Time `json:"generated_at"`
	Posts       []Post    `json:"posts"`
}

// Post is one place on the list. Score is Views + 5 Comments + 10 Shares.
type Post struct {
	ID        int64     `json:"id"`
	Title     string    `json:"title"`
	Score     int64     `json:"score"`
	Views     int64     `json:"views"`
	Comments  int64     `json:"comments"`
	Shares    int64     `json:"shares"`
	CreatedAt time.Time `json:"created_at"`
	Author    Author    `json:"author"`
}

// Author is who wrote a post.
type Author struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

// Options fixes how answers are remembered; zero values mean the cache's defaults.
type Options struct {
	// Namespace, TTL, TTLJitter, StaleFor, Lease, LoadTimeout and Replica are the cache's: see cache.Options.
	Namespace   string
	TTL         time.Duration
	TTLJitter   float64
	StaleFor    time.Duration
	Lease       time.Duration
	LoadTimeout time.Duration
	Replica     string

	// AcquireTimeout bounds the wait for a connection to Postgres. Defaults to two seconds.
	AcquireTimeout time.Duration
}

// Trending answers by any strategy. Its methods are safe for concurrent use.
type Trending struct {
	posts posts
	ttl   *cache.ReadThrough[List]
	lease *cache.Cache[List]
}

// New returns a Trending over the truth in Postgres and the memory in Redis. Run must run.
func New(pool *pgxpool.Pool, rdb redis.UniversalClient, o Options) *Trending {
	if o.AcquireTimeout == 0 {
		o.AcquireTimeout = 2 * time.Second
	}
	p := posts{pool, o.AcquireTimeout}
	remembered := cache.Options[List]{
		Name:        "trending",
		Namespace:   o.Namespace,
		Load:        func(ctx context.Context, _ string) (List, error) { return p.preloaded(ctx) },
		TTL:         o.TTL,
		Jitter:      o.TTLJitter,
		StaleFor:    o.StaleFor,
		Lease:       o.Lease,
		LoadTimeout: o.LoadTimeout,
		Replica:     o.Replica,
		Detach:      detach,
	}
	return &Trending{
		posts: p,
		ttl:   cache.NewReadThrough(rdb, remembered),
		lease: cache.New(rdb, remembered),
	}
}

// detach gives a background refresh a tally of its own: the request that happened to cause it does not pay.
func detach(ctx context.Context) context.Context {
	tally := roundtrips.New("refresh trending")
	tally.SetStrategy(string(Lease))
	return roundtrips.With(context.WithoutCancel(ctx), tally)
}

// Top returns the list by the given strategy, which must be one of Strategies, and where it is from (ResultBypass for
// the strategies that have no memory).
func (t *Trending) Top(ctx context.Context, by Strategy) (List, cache.Info, error) {
	roundtrips.From(ctx).SetStrategy(string(by))
	switch by {
	case NPlusOne:
		return withoutMemory(t.posts.nPlusOne(ctx))
	case Preload:
		return withoutMemory(t.posts.preloaded(ctx))
	case TTL:
		return t.ttl.Get(ctx, cacheKey)
	case Lease:
		return t.lease.Get(ctx, cacheKey)
	}
	return List{}, cache.Info{Result: cache.ResultError}, UnknownStrategyError{string(by)}
}

func withoutMemory(list List, err error) (List, cache.Info, error) {
	if err != nil {
		return list, cache.Info{Result: cache.ResultError}, err
	}
	return list, cache.Info{Result: cache.ResultBypass}, nil
}

// Forget makes every strategy's memory cold.
func (t *Trending) Forget(ctx context.Context) error {
	return errors.Join(t.ttl.Delete(ctx, cacheKey), t.lease.Delete(ctx, cacheKey))
}

// Run keeps the memory's background work going until the context ends; see cache.Cache.Run.
func (t *Trending) Run(ctx context.Context) error { return t.lease.Run(ctx) }

// Shutdown waits for fills until the context ends, then cancels them and releases their leases; see
// cache.Cache.Shutdown. Call it after Run's context has ended.
func (t *Trending) Shutdown(ctx context.Context) error { return t.lease.Shutdown(ctx) }
