package reconcile_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
)

// runs keeps a reconciler's Run going in this process, which takes a run of that strategy and hangs in it.
func (s stores) runs(t *testing.T, by reconcile.Strategy) (r *reconcile.Reconciler, id uuid.UUID, stop func()) {
	t.Helper()
	r = s.reconciler(t, reconcile.Options{Replica: "leaving", Silence: silence, BufferLease: time.Hour})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	job, err := r.Start(t.Context(), by, 0)
	require.NoError(t, err)
	s.blocked(t)
	return r, job.ID, func() {
		cancel()
		began := time.Now()
		require.NoError(t, <-ended)
		require.Less(t, time.Since(began), silence, "Run does not wait")
	}
}

// A replica leaves in the middle of a run, with a flush that hangs. Its run is free at once, and so is the generation,
// whose lease would have lasted an hour.
func TestShutdown_LeavesARunToAnotherReplica(t *testing.T) {
	onEachStrategy(t, func(t *testing.T, by reconcile.Strategy) {
		s := newStores(t)
		release := s.hold(t)
		leaving, id, stop := s.runs(t, by)
		stop()
		require.NoError(t, leaving.Shutdown(t.Context()), "a run need not be waited for")
		s.unblocked(t)
		const free = "SELECT count(*) FROM reconcile_jobs WHERE state = 'running' AND silent_after <= now()"
		require.EqualValues(t, 1, s.count(t, free))
		release()

		s.replica(t, reconcile.Options{Replica: "successor", Silence: silence, BufferLease: lease})
		job := s.over(t, id)
		require.Equal(t, reconcile.Done, job.State, job.Err)
		require.Equal(t, "successor", job.Replica)
		require.Equal(t, 2, job.Attempts)
		s.holds(t, payments)
		eventually(t, func() bool { return len(s.kept(t, id)) == 0 })
	})
}

// The hand-over cannot be written down. Shutdown ends with its context, and the run is free when its worker has been
// silent for long enough.
func TestShutdown_PostgresHangs(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	releasePayment := s.hold(t)
	leaving, id, stop := s.runs(t, reconcile.NPlusOne) // its marking does not need the table of runs
	ctx := context.WithoutCancel(t.Context())
	lock, err := s.pool.Begin(ctx)
	require.NoError(t, err)
	defer func() { _ = lock.Rollback(ctx) }()
	_, err = lock.Exec(ctx, "LOCK TABLE reconcile_jobs IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)
	stop()
	bounded, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	require.ErrorIs(t, leaving.Shutdown(bounded), context.DeadlineExceeded)
	require.Less(t, time.Since(began), silence)
	s.unblocked(t)
	releasePayment()
	require.NoError(t, lock.Rollback(ctx))

	s.replica(t, reconcile.Options{Replica: "successor", Silence: silence, BufferLease: lease})
	job := s.over(t, id)
	require.Equal(t, reconcile.Done, job.State, job.Err)
	s.holds(t, payments)
}
