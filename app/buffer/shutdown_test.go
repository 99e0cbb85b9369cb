package buffer_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
)

// heldUp is a family whose flush of the live buffer hangs at a lock in Postgres until release.
func heldUp(t *testing.T, rdb redis.UniversalClient, table string) (
	l *ledger, buffers *buffer.Buffers[int64], stopRun, release func(),
) {
	t.Helper()
	l = newLedger(t, payments)
	ctx := context.WithoutCancel(t.Context())
	lock, err := l.pool.Begin(ctx)
	require.NoError(t, err)
	release = func() { _ = lock.Rollback(ctx) }
	t.Cleanup(release)
	_, err = lock.Exec(ctx, "LOCK TABLE "+table+" IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)
	buffers = buffer.New(rdb, l.pool, buffer.Options[int64]{
		Name: family, Apply: mark, FlushAge: often, Lease: time.Hour, FlushTimeout: time.Hour,
	})
	require.NoError(t, buffers.Open(live).Add(t.Context(), Payments{live, 1, payments}.ids()...))
	run, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- buffers.Run(run, buffers.Open(live)) }()
	l.blocked(t)
	return l, buffers, func() {
		cancel()
		require.NoError(t, <-ended)
	}, release
}

// A flush hangs in Postgres. Run returns when it is told to, Shutdown when its time is over; then the lease is free and
// nothing waits in Postgres any more, so that another process does the work at once.
func TestShutdown_CancelsAFlushThatHangs(t *testing.T) {
	for _, table := range []string{"payments", "buffer_generations"} {
		t.Run(table, func(t *testing.T) {
			onEachBackend(t, func(t *testing.T, b backend) {
				l, buffers, stopRun, release := heldUp(t, b.client(t), table)
				began := time.Now()
				stopRun()
				require.Less(t, time.Since(began), 5*time.Second, "Run does not wait for the flush")
				const patience = 300 * time.Millisecond
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				began = time.Now()
				require.ErrorIs(t, buffers.Shutdown(ctx), context.DeadlineExceeded)
				require.GreaterOrEqual(t, time.Since(began), patience)
				require.Less(t, time.Since(began), 5*time.Second)
				b.unleased(t, member)
				l.unblocked(t)

				_, err := buffers.Open(live).Flush(t.Context())
				require.ErrorIs(t, err, buffer.ErrShutdown)
				require.NoError(t, buffers.Open(live).Add(t.Context(), payments), "adding goes on")
				release()
				successor := startProcess(t, b, l, settings{FlushAge: often, Run: true, Continuous: []string{live}})
				l.settled(t, 1, payments)
				b.empty(t, member)
				l.holds(t, 1, payments)
				require.InDelta(t, 1, successor.flushes()["committed recovered"], 0)
			})
		})
	}
}

// unblocked returns once no transaction waits for another to end.
func (l *ledger) unblocked(t *testing.T) {
	t.Helper()
	eventually(t, func() bool {
		var waits bool
		require.NoError(t, l.pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits))
		return !waits
	})
}

// A flush that ends in time is waited for.
func TestShutdown_WaitsForAFlush(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l, buffers, stopRun, release := heldUp(t, b.client(t), "payments")
		stopRun()
		ended := make(chan error, 1)
		go func() { ended <- buffers.Shutdown(t.Context()) }()
		select {
		case err := <-ended:
			require.Fail(t, "it did not wait", "%v", err)
		case <-time.After(200 * time.Millisecond):
		}
		release()
		require.NoError(t, <-ended)
		l.holds(t, 1, payments)
		require.Empty(t, b.left(t))
		require.NoError(t, buffers.Shutdown(t.Context()), "again, which changes nothing")
		require.NoError(t, buffers.Run(t.Context()), "and Run begins nothing")
	})
}

// With a Redis that hangs the lease cannot be released: it expires.
func TestShutdown_RedisHangs(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	_, buffers, stopRun, _ := heldUp(t, b.client(t), "payments")
	require.NoError(t, b.nodes[0].Pause())
	defer func() { require.NoError(t, b.nodes[0].Resume()) }()
	stopRun()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	require.ErrorIs(t, buffers.Shutdown(ctx), context.Canceled)
	require.Less(t, time.Since(began), 5*time.Second)
}

// The caller of Flush gives up. Another process need not wait for the lease.
func TestFlush_ReleasesItsLeaseWhenItsCallerGivesUp(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := newLedger(t, payments)
		buf := buffer.New(b.client(t), l.pool, buffer.Options[int64]{Name: family, Apply: mark, Lease: time.Hour}).Open(live)
		require.NoError(t, buf.Add(t.Context(), Payments{live, 1, payments}.ids()...))
		ctx := context.WithoutCancel(t.Context())
		lock, err := l.pool.Begin(ctx)
		require.NoError(t, err)
		defer func() { _ = lock.Rollback(ctx) }()
		_, err = lock.Exec(ctx, "LOCK TABLE payments IN ACCESS EXCLUSIVE MODE")
		require.NoError(t, err)
		impatient, giveUp := context.WithCancel(ctx)
		failed := make(chan error, 1)
		go func() {
			_, err := buf.Flush(impatient)
			failed <- err
		}()
		l.blocked(t)
		giveUp()
		require.ErrorIs(t, <-failed, context.Canceled)
		require.NoError(t, lock.Rollback(ctx))

		done, err := buf.Flush(t.Context())
		require.NoError(t, err)
		require.Equal(t, buffer.Flushed{Generations: 1, Items: payments, Applied: agree(1, payments)}, done)
		l.holds(t, 1, payments)
	})
}
