package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"nervous/app/api"
	"nervous/app/migrations"
)

const (
	// healthEvery is how often the stores are looked at, and healthEveryAtStart until the schema was seen.
	healthEvery, healthEveryAtStart = 2 * time.Second, 250 * time.Millisecond
	// healthPatience bounds one look.
	healthPatience = 2 * time.Second
)

// health knows whether the replica is ready. It looks at the stores in the background, so a probe costs no round-trip
// and is answered at once, also when a store hangs.
type health struct {
	pool *pgxpool.Pool
	rdb  redis.UniversalClient

	mu       sync.Mutex
	state    api.Health
	draining bool
	said     string // the last reason that was logged
}

func newHealth(pool *pgxpool.Pool, rdb redis.UniversalClient) *health {
	return &health{pool: pool, rdb: rdb, state: api.Starting}
}

// now returns the state as it was seen last.
func (h *health) now() api.Health {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return api.Draining
	}
	return h.state
}

// drain says from now on that the replica is not ready.
func (h *health) drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
}

// run looks until the context ends.
func (h *health) run(ctx context.Context) error {
	for {
		h.look(ctx)
		wait := healthEvery
		if h.now() == api.Starting {
			wait = healthEveryAtStart
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// look finds out the state. Until the schema of this build was seen once, the replica is not ready, so that a rollout
// with a wrong DATABASE_URL does not replace good replicas. Afterwards a Postgres that is away makes it degraded:
// cached answers are served, and live events wait in Redis.
func (h *health) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, healthPatience)
	defer cancel()
	err := migrations.Check(ctx, h.pool)
	if errors.Is(err, context.Canceled) {
		return // the service ends
	}
	starting := h.now() == api.Starting
	state, said := api.Ready, ""
	switch {
	case err == nil:
	case starting:
		state, said = api.Starting, err.Error()
	default:
		state, said = api.Degraded, err.Error()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), healthPatience)
		defer cancel()
		if err := h.rdb.Ping(bounded).Err(); err != nil {
			state, said = api.Unavailable, said+"; "+err.Error()
		}
	}
	h.mu.Lock()
	changed := h.state != state || starting && h.said != said
	h.state, h.said = state, said
	h.mu.Unlock()
	switch {
	case !changed:
	case state == api.Ready:
		slog.InfoContext(ctx, "the replica is ready")
	default:
		slog.WarnContext(ctx, "the replica is "+string(state), "error", said)
	}
}
