package reconcile_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
)

// Two processes start a run at once, again and again: one has it, the other is told which.
func TestOneRunAtATime(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	one, other := s.replica(t, reconcile.Options{}), s.replica(t, reconcile.Options{})
	for range 8 {
		release := s.hold(t)
		answers := make(chan Started, 2)
		for _, p := range []*process{one, other} {
			go func() {
				var started Started
				if err := p.Try("Start", Order{Strategy: reconcile.SingleStatement}, &started); err != nil {
					t.Error(err)
				}
				answers <- started
			}()
		}
		first, second := <-answers, <-answers
		if first.Running != uuid.Nil {
			first, second = second, first
		}
		require.NotZero(t, first.Job.ID)
		require.Equal(t, first.Job.ID, second.Running)
		require.Equal(t, reconcile.RunningError{ID: first.Job.ID}, s.asker.Reset(t.Context()), "nothing is reset under it")
		release()
		require.Equal(t, reconcile.Done, s.over(t, first.Job.ID).State)
		require.NoError(t, s.asker.Reset(t.Context()))
	}
}

// The run that stood in the way has ended before it could be named: then nothing stands in the way.
func TestTheRunThatStoodInTheWayHasJustEnded(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	first := s.start(t, reconcile.Buffered, 0).ID
	c, err := pgxpool.ParseConfig(s.Database)
	require.NoError(t, err)
	c.ConnConfig.Tracer = afterError(func() {
		_, err := s.pool.Exec(context.WithoutCancel(t.Context()),
			"UPDATE reconcile_jobs SET state = 'done', finished_at = now() WHERE id = $1", first)
		require.NoError(t, err)
	})
	pool, err := pgxpool.NewWithConfig(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	rdb := redis.NewClient(s.redis.Options())
	t.Cleanup(func() { _ = rdb.Close() })
	job, err := reconcile.New(pool, rdb, reconcile.Options{}).Start(t.Context(), reconcile.Buffered, 0)
	require.NoError(t, err)
	require.NotEqual(t, first, job.ID)
	require.Equal(t, reconcile.Running, job.State)
}

// afterError is called after each statement that fails.
type afterError func()

func (afterError) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (f afterError) TraceQueryEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	if data.Err != nil {
		f()
	}
}

// A run that fails each time is given up after its attempts, whichever replicas had them, and says why.
func TestARunThatKeepsFailing(t *testing.T) {
	onEachStrategy(t, func(t *testing.T, by reconcile.Strategy) {
		s := newStores(t)
		_, err := s.pool.Exec(t.Context(),
			"ALTER TABLE payments ADD CONSTRAINT never CHECK (id <> 107 OR status = 'pending')")
		require.NoError(t, err)
		o := reconcile.Options{Silence: silence, BufferLease: lease}
		one := s.replica(t, o)
		s.replica(t, o)
		id := one.start(by).Job.ID
		eventually(t, func() bool { return s.job(t, id).Err != "" })
		require.False(t, s.job(t, id).State.Over(), "it is tried again")

		job := s.over(t, id)
		require.Equal(t, reconcile.Failed, job.State)
		require.Equal(t, 5, job.Attempts)
		require.Contains(t, job.Err, `violates check constraint "never"`)
		require.False(t, job.FinishedAt.IsZero())
		require.Equal(t, s.marked(t), job.Counts.Reconciled)
		s.consistent(t)

		_, err = s.pool.Exec(t.Context(), "ALTER TABLE payments DROP CONSTRAINT never")
		require.NoError(t, err)
		next := s.over(t, one.start(by).Job.ID)
		require.Equal(t, reconcile.Done, next.State, next.Err)
		s.holds(t, payments)
	})
}

// Workers that die, and so cannot say why, are no reason to try for ever either.
func TestARunThatKillsItsWorkers(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	release := s.hold(t)
	o := reconcile.Options{Silence: 200 * time.Millisecond, BufferLease: lease}
	id := s.start(t, reconcile.BatchedReads, 0).ID
	for attempt := range 5 {
		doomed := s.replica(t, o)
		s.taken(t, id, attempt+1)
		doomed.Kill()
	}
	s.replica(t, o)
	job := s.over(t, id)
	require.Equal(t, reconcile.Failed, job.State)
	require.Contains(t, job.Err, "gave up after 5 attempts")
	release()
	s.consistent(t)
}

// Every replica may start a run by itself; together they start one at a time, and none where others just did.
func TestRunsAreStartedByThemselves(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	const every = 2 * time.Second
	for range 3 {
		s.replica(t, reconcile.Options{Every: every, ByItself: reconcile.SingleStatement})
	}
	runs := func() int64 { return s.count(t, "SELECT count(*) FROM reconcile_jobs WHERE state = 'done'") }
	eventually(t, func() bool { return runs() >= 5 })
	s.holds(t, payments)
	// Two that look at the same moment may still start one each, one after another.
	require.LessOrEqual(t, s.count(t, `SELECT count(*) FROM (
		SELECT created_at - lag(created_at) OVER (ORDER BY created_at) AS since FROM reconcile_jobs) r
		WHERE since < $1::interval / 2`, every-100*time.Millisecond), int64(1), "three replicas start no more than one")
	require.Zero(t, s.count(t, "SELECT count(*) FROM reconcile_jobs WHERE strategy <> 'single_statement'"))
}

// Reset forgets what was marked, and the live events that wait.
func TestReset(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	_, err := s.asker.Settled(t.Context(), middle)
	require.NoError(t, err)
	require.NoError(t, s.asker.Reset(t.Context()))
	replica := s.replica(t, reconcile.Options{FlushAge: often})
	require.EqualValues(t, agreeing, s.over(t, replica.start(reconcile.Buffered).Job.ID).Counts.Reconciled)
	require.NoError(t, s.asker.Reset(t.Context()))
	truth, err := s.asker.Truth(t.Context())
	require.NoError(t, err)
	require.Equal(t, reconcile.Truth{Pending: payments, PendingThatAgree: agreeing}, truth)

	require.NoError(t, s.redis.Kill())
	require.Error(t, s.asker.Reset(t.Context()), "the events that wait in Redis are still there")
}
