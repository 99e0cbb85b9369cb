package reconcile_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
)

// many adds payments that agree, so that a run has several ranges.
func (s stores) many(t *testing.T, last int64) {
	t.Helper()
	s.exec(t, `WITH more AS (INSERT INTO payments (id, reference, amount_minor, currency)
		SELECT n, n::text, 1, 'EUR' FROM generate_series($1::bigint + 1, $2::bigint) n RETURNING reference)
		INSERT INTO settlements (reference, amount_minor, currency) SELECT reference, 1, 'EUR' FROM more`, payments, last)
	s.exec(t, "ANALYZE payments, settlements")
}

// The ranges of a run are worked on by all replicas. Each is counted once, and the sums are the run's.
func TestRanges_SeveralWorkers(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	const last = 60_000
	s.many(t, last)
	release := s.hold(t) // in the first range, so that its owner, the lead, cannot take the others
	replicas := []*process{s.replica(t, reconcile.Options{}), s.replica(t, reconcile.Options{})}
	started := replicas[0].start(reconcile.Buffered)
	require.EqualValues(t, 25_000, started.Job.Total, "what is cut so far")
	id := started.Job.ID
	eventually(t, func() bool { return s.count(t, "SELECT count(*) FROM reconcile_ranges WHERE done") == 2 })
	job := s.job(t, id)
	require.Equal(t, reconcile.Running, job.State)
	require.EqualValues(t, last, job.Total)
	require.Equal(t, s.marked(t), job.Counts.Reconciled)
	release()
	job = s.over(t, id)
	require.Equal(t, reconcile.Done, job.State, job.Err)
	require.Equal(t, 1, job.Attempts)
	require.Equal(t, reconcile.Counts{Reconciled: last - 30, Amount: 10, Currency: 10, Missing: 10}, job.Counts)
	require.EqualValues(t, last, job.Examined)
	require.EqualValues(t, last-30, s.marked(t))
	require.EqualValues(t, 2, s.count(t, "SELECT count(DISTINCT owner) FROM reconcile_ranges"))
	s.consistent(t)
}

// A helper dies with a range. The lead, which lives, takes that over; it is no other attempt.
func TestRanges_AHelperIsKilled(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	const last = 27_000
	s.many(t, last)
	o := reconcile.Options{Silence: silence, BufferLease: lease}
	release := s.hold(t)
	lead := s.replica(t, o)
	id := lead.start(reconcile.BatchedReads).Job.ID
	s.blocked(t)
	lock, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = lock.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = lock.Exec(t.Context(), "SELECT FROM payments WHERE id = 25500 FOR UPDATE")
	require.NoError(t, err)
	helper := s.replica(t, o)
	eventually(t, func() bool { return s.waiting(t) == 2 })
	helper.Kill()
	require.NoError(t, lock.Rollback(t.Context()))
	release()
	job := s.over(t, id)
	require.Equal(t, reconcile.Done, job.State, job.Err)
	require.Equal(t, 1, job.Attempts)
	require.EqualValues(t, last-30, job.Counts.Reconciled)
	require.EqualValues(t, last-30, s.marked(t))
	s.consistent(t)
}

// A worker stands still in the middle of its marking while its run is cancelled and ended by another process. What it
// does later has no effect: nothing is marked, and the record stays what Postgres has.
func TestFence_APausedWorkerMarksNothingAfterTheEnd(t *testing.T) {
	onEachStrategy(t, func(t *testing.T, by reconcile.Strategy) {
		s := newStores(t)
		release := s.hold(t)
		first := s.replica(t, reconcile.Options{Replica: "first", Silence: silence, BufferLease: lease})
		id := first.start(by).Job.ID
		s.blocked(t)
		first.Signal(syscall.SIGSTOP)
		_, err := s.asker.Cancel(t.Context(), id)
		require.NoError(t, err)
		s.replica(t, reconcile.Options{Replica: "second", Silence: silence, BufferLease: lease})
		ended := s.over(t, id)
		require.Equal(t, reconcile.Cancelled, ended.State)
		require.Equal(t, s.marked(t), ended.Counts.Reconciled)
		release()
		s.unblocked(t)
		first.Signal(syscall.SIGCONT)
		first.job() // it has left
		require.Equal(t, ended, s.job(t, id))
		require.Equal(t, s.marked(t), ended.Counts.Reconciled)
		require.Zero(t, s.count(t, "SELECT count(*) FROM buffer_generations"))
		s.consistent(t)
	})
}

// A worker is paused before it marks, and its range is another's by now.
func TestFence_AWorkerWithAStaleEpoch(t *testing.T) {
	onEachStrategy(t, func(t *testing.T, by reconcile.Strategy) {
		s := newStores(t)
		release := s.hold(t)
		first := s.replica(t, reconcile.Options{Replica: "first", Silence: time.Hour, BufferLease: lease})
		id := first.start(by).Job.ID
		s.blocked(t)
		// As if another worker had claimed it: a claim waits for the lock that the first one holds.
		stolen := make(chan int64, 1)
		go func() {
			tag, _ := s.pool.Exec(context.WithoutCancel(t.Context()),
				"UPDATE reconcile_ranges SET owner = gen_random_uuid(), epoch = 2 WHERE run = $1 AND NOT done", id)
			stolen <- tag.RowsAffected()
		}()
		eventually(t, func() bool { return s.waiting(t) == 2 })
		release()
		again := <-stolen // none, if the first one was faster and had done all
		job := s.over(t, id)
		require.Equal(t, reconcile.Done, job.State, job.Err)
		require.Equal(t, found, job.Counts)
		require.Equal(t, 1+2*again, s.count(t, "SELECT epoch FROM reconcile_ranges"),
			"what came next was refused, and the range claimed once more, because its owner was dead")
		s.holds(t, payments)
	})
}

// The end of a run waits for the transactions that are marking, and no number of payments makes it longer.
func TestEnd_WaitsForAMarkingTransaction(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	o := reconcile.Options{Silence: time.Second, BufferLease: lease}
	release := s.hold(t)
	id := s.replica(t, o).start(reconcile.SingleStatement).Job.ID
	s.blocked(t)
	marker, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = marker.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = marker.Exec(t.Context(), "SELECT FROM reconcile_jobs WHERE id = $1 FOR KEY SHARE", id)
	require.NoError(t, err)
	release()
	s.unblocked(t)
	s.blocked(t) // the end
	require.Equal(t, reconcile.Running, s.job(t, id).State)
	require.NoError(t, marker.Rollback(t.Context()))
	job := s.over(t, id)
	require.Equal(t, reconcile.Done, job.State, job.Err)
	require.Equal(t, found, job.Counts)
	s.holds(t, payments)
}
