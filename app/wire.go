package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"nervous/app/api"
	"nervous/app/identity"
	"nervous/app/ratelimit"
	"nervous/app/reconcile"
	"nervous/app/roundtrips"
	"nervous/app/telemetry"
	"nervous/app/trending"
)

// service is one replica, built and not yet serving.
type service struct {
	handler http.Handler
	admin   http.Handler
	// adminListener is nil where nothing probes.
	adminListener net.Listener
	health        *health
	trending      *trending.Trending
	reconcile     *reconcile.Reconciler
	limiter       *ratelimit.Limiter
	// endsBy is when the graceful end must be over, once it has begun.
	endsBy time.Time
	pool   *pgxpool.Pool
	rdb    redis.UniversalClient
	// checkRedisLater is nil where Redis has answered at the start.
	checkRedisLater func(context.Context)
}

// build wires everything, top to bottom. It connects to nothing yet: a store that is away when the replica starts is
// like one that goes away later.
func build(ctx context.Context, c config) (*service, error) {
	// The truth.
	pool, err := openPostgres(ctx, c.Database)
	if err != nil {
		return nil, err
	}

	// The time.
	rdb, err := openRedis(c.Redis)
	if err != nil {
		pool.Close()
		return nil, err
	}

	// The features.
	s := &service{pool: pool, rdb: rdb, health: newHealth(pool, rdb)}
	s.trending = trending.New(pool, rdb, trending.Options{
		Namespace:      c.Redis.Namespace,
		TTL:            c.Trending.TTL,
		TTLJitter:      c.Trending.TTLJitter,
		StaleFor:       c.Trending.StaleFor,
		Lease:          c.Trending.Lease,
		LoadTimeout:    c.Trending.LoadTimeout,
		Replica:        c.ReplicaID,
		AcquireTimeout: c.Database.AcquireTimeout,
	})

	s.reconcile = reconcile.New(pool, rdb, reconcileOptions(c.Reconcile, c.Database, c.Redis, c.ReplicaID))

	// How often a caller may call.
	s.limiter = ratelimit.New(rdb, ratelimit.Options{
		Namespace: c.Redis.Namespace,
		Replica:   c.ReplicaID,
		Budget:    c.RateLimit.Budget,
		Detach: func(ctx context.Context) context.Context {
			return roundtrips.With(ctx, roundtrips.New("heartbeat ratelimit"))
		},
	})

	// The surface.
	s.handler, err = api.New(api.Dependencies{
		Trending:          s.trending,
		Reconcile:         s.reconcile,
		Limiter:           s.limiter,
		Overall:           c.RateLimit.policy("overall", c.RateLimit.Limit, c.RateLimit.Window),
		Runs:              c.RateLimit.policy("runs", c.RateLimit.RunsLimit, c.RateLimit.RunsWindow),
		Events:            c.RateLimit.policy("events", c.RateLimit.EventsLimit, c.RateLimit.EventsWindow),
		Tokens:            identity.New(c.Tokens.Secret),
		TrustedProxies:    c.TrustedProxies,
		TrustedHops:       c.TrustedHops,
		DefaultStrategy:   c.Trending.Strategy,
		ReconcileStrategy: c.Reconcile.Strategy,
		Demo:              c.Demo.On,
		Health:            s.health.now,
		Replica:           c.ReplicaID,
		RequestTimeout:    c.RequestTimeout,
	})
	if err != nil {
		return nil, errors.Join(err, s.close())
	}

	// What only those who run the service ask.
	ledger := func(ctx context.Context) any { return telemetry.ReadLedger(ctx) }
	if !c.Demo.On {
		ledger = nil
	}
	s.admin = api.NewAdmin(s.health.now, ledger)
	return s, nil
}

func reconcileOptions(c reconcileConfig, d database, r redisStore, replica string) reconcile.Options {
	return reconcile.Options{
		Replica:        replica,
		Namespace:      r.Namespace,
		FlushAge:       c.FlushAge,
		FlushSize:      c.FlushSize,
		BufferSize:     c.BufferSize,
		Every:          c.Every,
		ByItself:       c.Strategy,
		CountEvery:     c.CountEvery,
		AcquireTimeout: d.AcquireTimeout,
	}
}

func (r *rateLimitConfig) policy(name string, limit int64, window time.Duration) ratelimit.Policy {
	return ratelimit.Policy{Name: name, Limit: limit, Window: window, Strategy: r.Strategy, Fallback: r.Fallback}
}
