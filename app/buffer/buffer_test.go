package buffer_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
	"nervous/app/servicetest"
)

// mark is what the tests' buffers are for: it marks payments, each at most once.
func mark(ctx context.Context, tx pgx.Tx, _ buffer.Generation, ids []int64) (int64, error) {
	tag, err := tx.Exec(ctx, `UPDATE payments SET status = 'reconciled', reconciled_at = now()
		WHERE id = ANY($1) AND status = 'pending'`, ids)
	return tag.RowsAffected(), err
}

func pending(t *testing.T, pool *pgxpool.Pool, payments int) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `INSERT INTO payments (id, reference, amount_minor, currency)
		SELECT n, n::text, 100, 'EUR' FROM generate_series(1, $1) n`, payments)
	require.NoError(t, err)
}

func TestWhatWasAddedIsAppliedOnce(t *testing.T) {
	t.Parallel()
	pool, rdb := servicetest.Pool(t), redis.NewClient(servicetest.Redis(t).Options())
	t.Cleanup(func() { _ = rdb.Close() })
	const payments = 25_000
	pending(t, pool, payments)
	b := buffer.New(rdb, pool, buffer.Options[int64]{Name: "test", Apply: mark}).Open("run")

	var ids []int64
	for id := range int64(payments) {
		ids = append(ids, id+1)
	}
	require.NoError(t, b.Add(t.Context(), ids...))
	require.NoError(t, b.Add(t.Context(), ids[:10]...), "again, which changes nothing")
	holds, err := b.Stats(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, payments, holds.Depth)
	require.Positive(t, holds.OldestAge)
	require.Less(t, holds.OldestAge, time.Minute)

	done, err := b.Flush(t.Context())
	require.NoError(t, err)
	require.Equal(t, buffer.Flushed{Generations: 1, Items: payments, Applied: payments}, done)

	holds, err = b.Stats(t.Context())
	require.NoError(t, err)
	require.Zero(t, holds)
	keys, err := rdb.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.Equal(t, []string{"buffers"}, keys, "nothing is left but the index")

	done, err = b.Flush(t.Context())
	require.NoError(t, err)
	require.Zero(t, done)
}
