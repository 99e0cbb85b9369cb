package reconcile_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
)

// A run is cancelled, by another process, in the middle of its marking. What is marked by then stays marked, nothing
// more is marked from then on, and the next run does the rest.
func TestCancelInTheMiddle(t *testing.T) {
	onEachStrategy(t, func(t *testing.T, by reconcile.Strategy) {
		s := newStores(t)
		release := s.hold(t)
		replica := s.replica(t, reconcile.Options{Silence: silence, BufferLease: lease})
		id := replica.start(by).Job.ID
		s.blocked(t)
		began := time.Now()
		job, err := s.asker.Cancel(t.Context(), id)
		require.NoError(t, err)
		require.Contains(t, []reconcile.State{reconcile.Cancelling, reconcile.Cancelled}, job.State, "a beat may be near")
		job = s.over(t, id)
		t.Logf("cancelled within %v", time.Since(began))
		require.Less(t, time.Since(began), patience/4, "it takes a beat, of %v", silence/4)
		require.Equal(t, reconcile.Cancelled, job.State)
		require.Empty(t, job.Err)
		require.Equal(t, 1, job.Attempts)
		require.False(t, job.FinishedAt.IsZero())

		s.unblocked(t) // Postgres is told too
		release()
		eventually(t, func() bool { return len(s.kept(t, id)) == 0 }) // what it was flushing has to be claimed first
		require.Equal(t, s.marked(t), job.Counts.Reconciled, "nothing more was marked")
		s.consistent(t)
		for range 2 { // again, when it is over
			again, err := s.asker.Cancel(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, job, again)
		}

		next := s.over(t, replica.start(by).Job.ID)
		require.Equal(t, reconcile.Done, next.State)
		require.Equal(t, int64(agreeing), job.Counts.Reconciled+next.Counts.Reconciled)
		s.holds(t, payments)
	})
}

func TestCancelWhileItCollects(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	replica, slow := s.behindProxy(t, reconcile.Options{Silence: silence, BufferLease: lease})
	slow.Delay(time.Second)
	id := replica.start(reconcile.Buffered).Job.ID
	eventually(t, func() bool { return len(s.kept(t, id)) > 0 })
	_, err := s.asker.Cancel(t.Context(), id)
	require.NoError(t, err)
	job := s.over(t, id)
	require.Equal(t, reconcile.Cancelled, job.State)
	require.Zero(t, job.Counts.Reconciled)
	// Its buffer is dropped: what is open at once, and a flush that the cancelling beat came too late for once it is
	// claimed, without effect.
	eventually(t, func() bool { return len(s.kept(t, id)) == 0 })
	require.Zero(t, s.marked(t))
}

// A run whose worker is dead is cancelled by whoever finds it.
func TestCancelOfARunWhoseWorkerIsDead(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	release := s.hold(t)
	doomed := s.replica(t, reconcile.Options{Silence: silence, BufferLease: lease})
	id := doomed.start(reconcile.BatchedReads).Job.ID
	s.blocked(t)
	doomed.Kill()
	job, err := s.asker.Cancel(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, reconcile.Cancelling, job.State)
	_, err = s.asker.Start(t.Context(), reconcile.Buffered, 0)
	require.Equal(t, reconcile.RunningError{ID: id}, err, "it is not over yet")

	release()
	s.replica(t, reconcile.Options{Silence: silence})
	job = s.over(t, id)
	require.Equal(t, reconcile.Cancelled, job.State)
	require.Equal(t, s.marked(t), job.Counts.Reconciled)
	s.consistent(t)
}

// Nobody has taken the run yet.
func TestCancelOfARunThatHasNotBegun(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	id := s.start(t, reconcile.Buffered, 0).ID
	_, err := s.asker.Cancel(t.Context(), id)
	require.NoError(t, err)
	s.replica(t, reconcile.Options{})
	require.Equal(t, reconcile.Cancelled, s.over(t, id).State)
	require.Zero(t, s.marked(t))
}

func TestThereIsNoSuchRun(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	_, err := s.asker.Job(t.Context(), uuid.New())
	require.ErrorIs(t, err, reconcile.ErrNotFound)
	_, err = s.asker.Cancel(t.Context(), uuid.New())
	require.ErrorIs(t, err, reconcile.ErrNotFound)
}
