package reconcile_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
)

// A database that has had no run yet is due as long after its migration as any other after the last run.
func TestSchedule_TheFirstRun(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	s.exec(t, "UPDATE maintenance SET done = now() WHERE task = 'first run'")
	began := time.Now()
	s.replica(t, reconcile.Options{Every: 3 * time.Second, ByItself: reconcile.SingleStatement})
	eventually(t, func() bool { return s.marked(t) == agreeing })
	require.Greater(t, time.Since(began), 2*time.Second)
}

// Runs that give no guarantee do not put off the one that does: those with a limit, those that failed or were
// cancelled.
func TestSchedule_OnlyACompleteRunCounts(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	end := func(state reconcile.State, most any) {
		t.Helper()
		s.exec(t, `INSERT INTO reconcile_jobs (id, strategy, state, cause, through, total, most, finished_at)
			VALUES (gen_random_uuid(), 'buffered', $1, '', 0, 0, $2, now())`, state, most)
	}
	end(reconcile.Done, nil)
	s.replica(t, reconcile.Options{Every: 3 * time.Second, ByItself: reconcile.SingleStatement})
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	began := time.Now()
	for s.marked(t) == 0 {
		require.Less(t, time.Since(began), patience)
		end(reconcile.Done, 1)
		end(reconcile.Failed, nil)
		end(reconcile.Cancelled, nil)
		<-again.C
	}
	require.Greater(t, time.Since(began), 2*time.Second, "the first one was complete")
	eventually(t, func() bool { return s.marked(t) == agreeing })
}

// Replicas that live for a shorter time than Every start the run that is due: Postgres knows when it is.
func TestSchedule_ReplicasThatLiveForSeconds(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	s.exec(t, `INSERT INTO reconcile_jobs (id, strategy, state, cause, through, total, finished_at)
		VALUES (gen_random_uuid(), 'buffered', 'done', '', 0, 0, now())`)
	const every = 5 * time.Second
	began := time.Now()
	for s.count(t, "SELECT count(*) FROM reconcile_jobs") == 1 {
		require.Less(t, time.Since(began), patience)
		r := s.reconciler(t, reconcile.Options{Every: every, ByItself: reconcile.SingleStatement})
		ctx, stop := context.WithTimeout(t.Context(), every/4)
		_ = r.Run(ctx)
		stop()
	}
	require.Greater(t, time.Since(began), every/2)
}

// A run is handed over in order, as by each deployment, more often than it may fail.
func TestFailures_ARolloutIsNone(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	release := s.hold(t)
	id := s.start(t, reconcile.NPlusOne, 0).ID
	for rollout := range 6 {
		r := s.reconciler(t, reconcile.Options{})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		s.taken(t, id, rollout+1)
		s.blocked(t)
		stop()
		require.NoError(t, <-ended)
		require.NoError(t, r.Shutdown(t.Context()))
		s.unblocked(t)
	}
	job := s.job(t, id)
	require.Equal(t, reconcile.Running, job.State)
	require.Zero(t, job.Failures)
	release()
	s.replica(t, reconcile.Options{})
	job = s.over(t, id)
	require.Equal(t, reconcile.Done, job.State, job.Err)
	require.Equal(t, 7, job.Attempts)
	s.holds(t, payments)
}

// A run whose leads crash gets on as long as each of them does: the failures count anew after progress.
func TestFailures_CountOnlyWithoutProgress(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	s.many(t, 12_000)
	o := reconcile.Options{Silence: silence}
	id := s.start(t, reconcile.BatchedReads, 0).ID
	// Each lead finishes a page of a thousand, and is killed in the next one, of which Postgres still does what it was
	// told last.
	for page := int64(1); page <= 6; page++ {
		lock, err := s.pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = lock.Exec(t.Context(), "SELECT FROM payments WHERE id = $1 FOR UPDATE", page*1010+600)
		require.NoError(t, err)
		doomed := s.replica(t, o)
		s.taken(t, id, int(page))
		s.blocked(t)
		doomed.Kill()
		require.NoError(t, lock.Rollback(t.Context()))
		s.unblocked(t)
		require.LessOrEqual(t, s.job(t, id).Failures, 1)
	}
	s.replica(t, o)
	job := s.over(t, id)
	require.Equal(t, reconcile.Done, job.State, job.Err)
	require.EqualValues(t, 12_000-30, job.Counts.Reconciled)
	require.EqualValues(t, 12_000-30, s.marked(t))
}

// Old records are deleted by whichever replica finds that it is time; the last complete run stays.
func TestSchedule_Prune(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	last := uuid.New()
	s.exec(t, `INSERT INTO reconcile_jobs (id, strategy, state, cause, through, total, most, finished_at)
		SELECT gen_random_uuid(), 'buffered', 'done', '', 0, 0, n, now() - interval '40 days' - n * interval '1 hour'
		FROM generate_series(1, 2500) n`)
	s.exec(t, `INSERT INTO reconcile_jobs (id, strategy, state, cause, through, total, finished_at)
		VALUES ($1, 'buffered', 'done', '', 0, 0, now() - interval '50 days')`, last)
	s.exec(t, `INSERT INTO buffer_generations (id, buffer, items, flushed_at)
		SELECT gen_random_uuid(), 'live', 1, now() - n * interval '1 day' FROM generate_series(1, 20) n`)
	s.exec(t, "UPDATE maintenance SET done = now() - interval '2 hours'")
	s.replica(t, reconcile.Options{Every: 2 * time.Second, ByItself: reconcile.SingleStatement})
	eventually(t, func() bool {
		return s.count(t, "SELECT count(*) FROM reconcile_jobs WHERE finished_at < now() - interval '30 days'") <= 1
	})
	eventually(t, func() bool {
		return s.count(t, "SELECT count(*) FROM buffer_generations WHERE flushed_at < now() - interval '7 days'") == 0
	})
}
