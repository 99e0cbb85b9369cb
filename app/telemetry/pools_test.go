package telemetry

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"nervous/app/servicetest"
)

func TestPoolsAreObserved(t *testing.T) {
	t.Parallel()
	r := record(t)
	pool := servicetest.Pool(t)
	client := newRedis(t, r)
	require.NoError(t, observePool(r.meters, "postgres", postgresPoolState(pool)))
	require.NoError(t, observePool(r.meters, "redis", redisPoolState(client)))
	held, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer held.Release()
	require.NoError(t, client.Set(t.Context(), "k", "v", 0).Err())

	byState := []attribute.Key{semconv.DBClientConnectionPoolNameKey, semconv.DBClientConnectionStateKey}
	require.Equal(t, map[string]int64{"postgres idle": 0, "postgres used": 1, "redis idle": 1, "redis used": 0},
		r.counter("db.client.connection.count", byState...))
	most := r.counter("db.client.connection.max", semconv.DBClientConnectionPoolNameKey)
	require.EqualValues(t, pool.Config().MaxConns, most["postgres"])
	require.EqualValues(t, client.Options().PoolSize+client.Options().PipelinePoolSize, most["redis"])
	for _, name := range []string{"db.client.connection.timeouts", ConnectionWaits} {
		require.Contains(t, r.counter(name, semconv.DBClientConnectionPoolNameKey), "redis", name)
	}
}
