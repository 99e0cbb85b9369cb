package telemetry

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

// Also what was given up is accounted for: the answers to cancelled queries arrive when nobody waits any more.
func TestTheWireAndTheSpansAgreeAboutCancelledQueries(t *testing.T) {
	t.Parallel()
	r := record(t)
	pool := newPool(t, r, servicetest.Postgres(t), func(c *pgxpool.Config) { c.MaxConns = 2 })
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				_, _ = pool.Exec(ctx, "SELECT pg_sleep(60)")
				cancel()
				_, _ = pool.Exec(t.Context(), "SELECT 1")
			}
		})
	}
	group.Wait()
	// pgx hears the answers out in the background.
	require.Eventually(t, func() bool { return len(r.spans(named("UNTRACED"))) > 0 }, 20*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		return r.counter(WireRoundTrips, "store")["postgres"] == r.roundTrips()
	}, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, r.roundTrips(), r.counter(StoreRoundTrips, "store")["postgres"])
}

// Who could not ask a Redis that hangs mostly knows it. Whose new connection was not greeted believes that he has
// asked; so while Redis hangs there may be more on spans than on the wire, and never less.
func TestTheSpansMissNothingOfAHungRedis(t *testing.T) {
	t.Parallel()
	r := record(t)
	server := servicetest.Redis(t)
	options := &redis.Options{Addr: server.Addr(), PoolSize: 4}
	RedisOptions(options)
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	require.NoError(t, instrumentRedis(client, r.wire, r.tracers, r.meters))
	require.NoError(t, client.Ping(t.Context()).Err())
	require.NoError(t, server.Pause())
	expired, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	var group sync.WaitGroup
	for i := range 40 {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%5)*20*time.Millisecond+time.Microsecond)
			defer cancel()
			client.Get(ctx, "k")
			_, _ = client.Pipelined(ctx, func(p redis.Pipeliner) error {
				p.Incr(ctx, "n")
				p.Incr(ctx, "n")
				return nil
			})
			client.Get(expired, "k")
		})
	}
	group.Wait()
	require.NoError(t, server.Resume())
	require.NoError(t, client.Ping(t.Context()).Err())
	traced := r.counter(TelemetryCalls, "operation")
	for command, n := range r.counter(WireCalls, "operation") {
		require.GreaterOrEqual(t, traced[command], n, command)
	}
	require.GreaterOrEqual(t, r.roundTrips(), r.counter(WireRoundTrips, "store")["redis"])
	require.LessOrEqual(t, traced["GET"], int64(40), "those who came too late have asked nobody")
}

// A process has a client of Redis and a pool of Postgres, and each counts what passes over its own connections.
func TestTwoWiresAreOneMetric(t *testing.T) {
	t.Parallel()
	r := record(t)
	other, err := newWire(r.meters)
	require.NoError(t, err)
	r.wire.answered("redis")
	other.answered("postgres")
	other.answered("postgres")
	require.Equal(t, map[string]int64{"redis": 1, "postgres": 2}, r.counter(WireRoundTrips, "store"))
}
