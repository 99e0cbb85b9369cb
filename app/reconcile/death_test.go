package reconcile_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
)

// Short enough to wait for, long enough that a machine which is busy with other tests makes nobody look dead.
const (
	silence = 4 * time.Second
	lease   = 2 * time.Second
)

func onEachStrategy(t *testing.T, test func(t *testing.T, by reconcile.Strategy)) {
	t.Helper()
	t.Parallel()
	for _, by := range reconcile.Strategies() {
		t.Run(string(by), func(t *testing.T) {
			t.Parallel()
			test(t, by)
		})
	}
}

// A worker is killed in the middle of a run: where it marks, with a part of the payments marked or in its transaction.
// Postgres learns of its death only later, and may still do what it was told last, beside the successor.
func TestAWorkerIsKilledWhileItMarks(t *testing.T) {
	onEachStrategy(t, func(t *testing.T, by reconcile.Strategy) {
		s := newStores(t)
		release := s.hold(t)
		doomed := s.replica(t, reconcile.Options{Replica: "doomed", Silence: silence, BufferLease: lease})
		id := doomed.start(by).Job.ID
		s.blocked(t)
		doomed.Kill()

		s.replica(t, reconcile.Options{Replica: "successor", Silence: silence, BufferLease: lease})
		s.taken(t, id, 2)
		release()
		job := s.over(t, id)
		require.Equal(t, reconcile.Done, job.State, job.Err)
		require.Equal(t, 2, job.Attempts)
		require.Equal(t, "successor", job.Replica)
		require.Equal(t, found, job.Counts)
		require.EqualValues(t, payments, job.Examined)
		s.holds(t, payments)
	})
}

// A worker is killed while it collects: what it has put into Redis is in nobody's way.
func TestAWorkerIsKilledWhileItCollects(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	_, err := s.pool.Exec(t.Context(), `WITH more AS (INSERT INTO payments (id, reference, amount_minor, currency)
		SELECT n, n::text, 1, 'EUR' FROM generate_series($1::bigint + 1, 5000) n RETURNING reference)
		INSERT INTO settlements (reference, amount_minor, currency) SELECT reference, 1, 'EUR' FROM more`, payments)
	require.NoError(t, err)
	doomed, slow := s.behindProxy(t, reconcile.Options{Silence: silence, BufferLease: lease})
	slow.Delay(time.Second)
	id := doomed.start(reconcile.Buffered).Job.ID
	eventually(t, func() bool { return s.job(t, id).Examined > 0 })
	require.Less(t, s.job(t, id).Examined, int64(5000), "it is in the middle")
	doomed.Kill()
	require.NotEmpty(t, s.kept(t, id))
	require.Zero(t, s.marked(t))

	s.replica(t, reconcile.Options{Silence: silence, BufferLease: lease})
	job := s.over(t, id)
	require.Equal(t, reconcile.Done, job.State, job.Err)
	require.Equal(t, 2, job.Attempts)
	require.Equal(t, reconcile.Counts{Reconciled: 4_970, Amount: 10, Currency: 10, Missing: 10}, job.Counts)
	require.EqualValues(t, 4_970, s.marked(t))
	s.consistent(t)
	eventually(t, func() bool { return len(s.kept(t, id)) == 0 })
}

// A worker stands still for longer than its silence may last, and then goes on, while another has taken its run over.
func TestAWorkerThatWasPausedIsReplaced(t *testing.T) {
	onEachStrategy(t, func(t *testing.T, by reconcile.Strategy) {
		s := newStores(t)
		release := s.hold(t)
		first := s.replica(t, reconcile.Options{Replica: "first", Silence: silence, BufferLease: lease})
		id := first.start(by).Job.ID
		s.blocked(t)
		first.Signal(syscall.SIGSTOP)
		second := s.replica(t, reconcile.Options{Replica: "second", Silence: silence, BufferLease: lease})
		s.taken(t, id, 2)
		release()
		job := s.over(t, id)
		require.Equal(t, reconcile.Done, job.State, job.Err)
		require.Equal(t, 2, job.Attempts)
		require.Equal(t, found, job.Counts)

		first.Signal(syscall.SIGCONT)
		attempt := first.job()
		require.NotEmpty(t, attempt.Events, "why it has left")
		require.NotContains(t, attempt.Attributes, "reconcile.state", "it has not ended anything")
		require.Equal(t, []string{attempt.ID}, second.job().Links["first_attempt"])
		require.Equal(t, map[string]float64{string(by) + " done": 1},
			second.Metric(reconcile.MetricDuration, "strategy", "outcome"))
		require.Empty(t, first.Metric(reconcile.MetricDuration, "strategy", "outcome"))
		require.Equal(t, job, s.job(t, id), "its record is final")
		s.holds(t, payments)
	})
}
