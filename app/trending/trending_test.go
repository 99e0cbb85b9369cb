package trending_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest"
	"nervous/app/trending"
)

// truth is twelve posts by three authors. Post n has n views; post 1 has comments and shares besides, post 12 is too
// old.
func truth(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := servicetest.Pool(t)
	for _, sql := range []string{
		`INSERT INTO users (id, name) VALUES (1, 'Ada'), (2, 'Grace'), (3, 'Barbara')`,
		`INSERT INTO posts (id, author_id, title, created_at)
		 SELECT n, 1 + n % 3, 'Post ' || n, now() - CASE WHEN n = 12 THEN interval '25 hours' ELSE interval '1 hour' END
		 FROM generate_series(1, 12) AS n`,
		`INSERT INTO views (post_id, user_id) SELECT n, 1 FROM generate_series(1, 12) AS n, generate_series(1, n)`,
		`INSERT INTO comments (post_id, user_id, body) SELECT 1, 2, 'so true' FROM generate_series(1, 2)`,
		`INSERT INTO shares (post_id, user_id) SELECT 1, 3 FROM generate_series(1, 3)`,
	} {
		_, err := pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	return pool
}

func newTrending(t *testing.T, pool *pgxpool.Pool, o trending.Options) *trending.Trending {
	t.Helper()
	rdb := redis.NewClient(servicetest.Redis(t).Options())
	t.Cleanup(func() { rdb.Close() })
	return trending.New(pool, rdb, o)
}

func TestEveryStrategyGivesTheSameAnswer(t *testing.T) {
	t.Parallel()
	top := newTrending(t, truth(t), trending.Options{})
	for _, strategy := range trending.Strategies() {
		list, _, err := top.Top(t.Context(), strategy)
		require.NoError(t, err, strategy)
		require.Len(t, list.Posts, 10, strategy)
		first := list.Posts[0]
		// Joined as a product, post 1 would have 6 views, 6 comments and 6 shares.
		require.Equal(t, trending.Post{
			ID: 1, Title: "Post 1", Views: 1, Comments: 2, Shares: 3, Score: 1 + 5*2 + 10*3,
			CreatedAt: first.CreatedAt, Author: trending.Author{ID: 2, Name: "Grace"},
		}, first, strategy)
		require.EqualValues(t, 11, list.Posts[1].ID, "post 12 has more views, and is too old: %s", strategy)
		require.Equal(t, "Barbara", list.Posts[1].Author.Name, strategy)
		require.EqualValues(t, 3, list.Posts[9].ID, strategy)
	}
}

func TestOnlyTheLaterStrategiesRemember(t *testing.T) {
	t.Parallel()
	top := newTrending(t, truth(t), trending.Options{TTL: time.Minute})
	want := map[trending.Strategy][2]cache.Result{
		trending.NPlusOne: {cache.ResultBypass, cache.ResultBypass},
		trending.Preload:  {cache.ResultBypass, cache.ResultBypass},
		trending.TTL:      {cache.ResultMiss, cache.ResultHit},
		trending.Lease:    {cache.ResultMiss, cache.ResultHit},
	}
	twice := func() map[trending.Strategy][2]cache.Result {
		got := map[trending.Strategy][2]cache.Result{}
		for _, strategy := range trending.Strategies() {
			_, first, err := top.Top(t.Context(), strategy)
			require.NoError(t, err)
			_, second, err := top.Top(t.Context(), strategy)
			require.NoError(t, err)
			got[strategy] = [2]cache.Result{first.Result, second.Result}
		}
		return got
	}
	require.Equal(t, want, twice())
	require.NoError(t, top.Forget(t.Context()))
	require.Equal(t, want, twice(), "after Forget it is cold again")
}

func TestABusyDatabaseShedsInsteadOfQueueing(t *testing.T) {
	t.Parallel()
	pool := truth(t)
	top := newTrending(t, pool, trending.Options{AcquireTimeout: 20 * time.Millisecond})
	for range pool.Config().MaxConns {
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
	}
	for _, strategy := range trending.Strategies() {
		_, info, err := top.Top(t.Context(), strategy)
		require.ErrorIs(t, err, trending.ErrBusy, strategy)
		require.Equal(t, cache.ResultError, info.Result)
	}
}

func TestAQueryEndsWithItsRequest(t *testing.T) {
	t.Parallel()
	pool := truth(t)
	top := newTrending(t, pool, trending.Options{})
	lock, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = lock.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = lock.Exec(t.Context(), "LOCK TABLE views IN ACCESS EXCLUSIVE MODE") // the query now waits for ever
	require.NoError(t, err)

	// Not by pg_stat_activity, which within a transaction goes on showing what it has shown first.
	queries := func() (n int) {
		err := lock.QueryRow(t.Context(),
			`SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
			 WHERE datname = current_database() AND NOT granted`).Scan(&n)
		require.NoError(t, err)
		return n
	}
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, _, err := top.Top(ctx, trending.Preload)
		ended <- err
	}()
	require.Eventually(t, func() bool { return queries() == 1 }, 20*time.Second, 5*time.Millisecond)
	leave()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.Eventually(t, func() bool { return queries() == 0 }, 20*time.Second, 5*time.Millisecond,
		"Postgres goes on with a query that nobody waits for")
}

func TestThereIsNoOtherStrategy(t *testing.T) {
	t.Parallel()
	var s trending.Strategy
	require.ErrorContains(t, s.UnmarshalText([]byte("magic")), "n_plus_one, preload, ttl, lease")
	_, _, err := newTrending(t, servicetest.Pool(t), trending.Options{}).Top(t.Context(), "magic")
	require.ErrorAs(t, err, &trending.UnknownStrategyError{})
}
