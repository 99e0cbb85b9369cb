package reconcile_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
)

// exec changes something behind the service's back, as the bank does.
func (s stores) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	_, err := s.pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

const correct = "UPDATE settlements SET amount_minor = 1 WHERE reference = $1::bigint::text"

// A settlement that changes after its payment was marked is queued, and the next run reopens the payment.
func TestChanges(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(t *testing.T, s stores)
		// reopened are the payments that the next run makes pending again.
		reopened int64
	}{
		{"corrected amount", func(t *testing.T, s stores) { s.exec(t, correct, middle) }, 1},
		{"corrected currency", func(t *testing.T, s stores) {
			s.exec(t, "UPDATE settlements SET currency = 'CHF' WHERE reference = $1::bigint::text", middle)
		}, 1},
		{"deleted", func(t *testing.T, s stores) {
			s.exec(t, "DELETE FROM settlements WHERE reference IN ('1', '2')")
		}, 2},
		{"named another payment", func(t *testing.T, s stores) {
			s.exec(t, "UPDATE settlements SET reference = 'another' WHERE reference = $1::bigint::text", middle)
		}, 1},
		{"changed and changed back", func(t *testing.T, s stores) {
			s.exec(t, correct, middle)
			s.exec(t, "UPDATE settlements SET amount_minor = 100 + $1 WHERE reference = $1::bigint::text", int64(middle))
		}, 0},
		{"another time only", func(t *testing.T, s stores) {
			s.exec(t, "UPDATE settlements SET settled_at = now()")
			require.Zero(t, s.count(t, "SELECT count(*) FROM settlement_changes"))
		}, 0},
		{"changed payment", func(t *testing.T, s stores) {
			s.exec(t, "UPDATE payments SET amount_minor = 1 WHERE id = $1", middle)
		}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newStores(t)
			s.exec(t, "DROP TRIGGER write_down ON payments") // it allows no other updates
			replica := s.replica(t, reconcile.Options{})
			require.Equal(t, reconcile.Done, s.over(t, replica.start(reconcile.Buffered).Job.ID).State)
			test.change(t, s)
			truth, err := s.asker.Truth(t.Context())
			require.NoError(t, err)
			require.Equal(t, test.reopened, truth.ReconciledThatDisagree)

			run := s.over(t, replica.start(reconcile.SingleStatement).Job.ID)
			require.Equal(t, reconcile.Done, run.State, run.Err)
			require.Equal(t, test.reopened, run.Reopened)
			require.Equal(t, agreeing-test.reopened, s.marked(t))
			truth, err = s.asker.Truth(t.Context())
			require.NoError(t, err)
			require.Zero(t, truth.ReconciledThatDisagree)
			require.Zero(t, s.count(t, "SELECT count(*) FROM settlement_changes"))
			require.Zero(t, s.over(t, replica.start(reconcile.SingleStatement).Job.ID).Reopened, "once")
		})
	}
}

// The bank's transaction has an older snapshot, in which the payment is still pending.
func TestChanges_OfARepeatableReadTransaction(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	bank, err := s.pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer func() { _ = bank.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = bank.Exec(t.Context(), "SELECT FROM payments LIMIT 1") // takes the snapshot
	require.NoError(t, err)
	replica := s.replica(t, reconcile.Options{})
	s.over(t, replica.start(reconcile.Buffered).Job.ID)
	_, err = bank.Exec(t.Context(), correct, middle)
	require.NoError(t, err)
	require.NoError(t, bank.Commit(t.Context()))

	require.EqualValues(t, 1, s.over(t, replica.start(reconcile.Buffered).Job.ID).Reopened)
	s.consistent(t)
}

// A metric says how many reconciled payments disagree, until a run has reopened them.
func TestChanges_Metrics(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	replica := s.replica(t, reconcile.Options{Every: often * 20}) // it looks ten times as often
	disagreeing := func() (float64, bool) {
		n, is := replica.Metric(reconcile.MetricDisagreeing)[""]
		return n, is
	}
	eventually(t, func() bool {
		n, is := disagreeing()
		return is && n == 0 && s.marked(t) == agreeing
	})
	// A run that cannot end keeps the next one from reopening the payment.
	release := s.hold(t)
	s.exec(t, "UPDATE reconcile_jobs SET finished_at = now()")
	s.exec(t, correct, 1)
	eventually(t, func() bool {
		n, _ := disagreeing()
		return n == 1 || replica.Metric(reconcile.MetricReopened)[""] == 1
	})
	release()
	eventually(t, func() bool {
		n, _ := disagreeing()
		return n == 0 && replica.Metric(reconcile.MetricReopened)[""] == 1
	})
	s.consistent(t)
}

// A settlement is corrected while a marker waits for a lock. What it then marks agrees with the settlement as it is.
func TestMark_AfterACorrection(t *testing.T) {
	onEachStrategy(t, func(t *testing.T, by reconcile.Strategy) {
		s := newStores(t)
		release := s.hold(t)
		replica := s.replica(t, reconcile.Options{})
		id := replica.start(by).Job.ID
		s.blocked(t)
		s.exec(t, correct, middle)
		release()
		job := s.over(t, id)
		require.Equal(t, reconcile.Done, job.State, job.Err)
		require.EqualValues(t, agreeing-1, job.Counts.Reconciled)
		require.EqualValues(t, agreeing-1, s.marked(t))
		s.consistent(t)
	})
	t.Run("live event", func(t *testing.T) {
		t.Parallel()
		s := newStores(t)
		release := s.hold(t)
		replica := s.replica(t, reconcile.Options{FlushAge: often})
		replica.settled(middle)
		s.blocked(t)
		s.exec(t, correct, middle)
		release()
		eventually(t, func() bool { return s.count(t, "SELECT count(*) FROM buffer_generations") == 1 })
		require.Zero(t, s.marked(t))
	})
}

// A correction that is under way when the payment is marked: the marker waits for it, and compares again.
func TestMark_DuringACorrection(t *testing.T) {
	onEachStrategy(t, func(t *testing.T, by reconcile.Strategy) {
		s := newStores(t)
		bank, err := s.pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { _ = bank.Rollback(context.WithoutCancel(t.Context())) }()
		_, err = bank.Exec(t.Context(), correct, middle)
		require.NoError(t, err)
		id := s.replica(t, reconcile.Options{}).start(by).Job.ID
		s.blocked(t)
		require.NoError(t, bank.Commit(t.Context()))
		require.EqualValues(t, agreeing-1, s.over(t, id).Counts.Reconciled)
		s.consistent(t)
	})
}
