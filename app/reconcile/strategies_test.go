package reconcile_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/app/migrations"
	"nervous/app/reconcile"
	"nervous/app/servicetest"
)

// trips is what a run over the payments costs by the formula that it states.
var trips = map[reconcile.Strategy]struct{ postgres, redis int64 }{
	// A page of ids; a find for each payment, a transaction for each that agrees; the end of the range.
	reconcile.NPlusOne: {1 + payments + agreeing + 1, 0},
	// A page of payments and what was found; a transaction for each that agrees; the end of the range.
	reconcile.BatchedReads: {1 + agreeing + 1, 0},
	// A page; BEGIN, the generation's record (and to prepare it, once a connection), what is marked, COMMIT; the end of
	// the range. In Redis: one addition a page, CUT, SSCAN, ACK, a look for other generations.
	reconcile.Buffered: {1 + 5 + 1, 1 + 4},
	// What is marked, and the end of the range.
	reconcile.SingleStatement: {2, 0},
}

// The same payments, in the same order of strategies as the README's table: they differ in what they cost, and in
// nothing else. What a run says that it cost is what Postgres counted.
func TestEveryStrategyComesToTheSameEnd(t *testing.T) {
	t.Parallel()
	server, err := servicetest.StartPostgres(t.Context(), servicetest.Options{Settings: map[string]string{
		"shared_preload_libraries": "pg_stat_statements", "fsync": "off",
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	_, err = migrations.Up(t.Context(), server.URL("postgres"))
	require.NoError(t, err)
	s := storesAt(t, server.URL("postgres"), servicetest.Redis(t))
	_, err = s.pool.Exec(t.Context(), "CREATE EXTENSION pg_stat_statements")
	require.NoError(t, err)

	for _, by := range reconcile.Strategies() {
		t.Run(string(by), func(t *testing.T) {
			require.NoError(t, s.asker.Reset(t.Context()))
			require.Zero(t, s.marked(t))
			replica := s.replica(t, reconcile.Options{Replica: string(by)})
			before := s.counted(t)
			started := replica.start(by)
			require.Equal(t, reconcile.Running, started.Job.State)
			require.EqualValues(t, payments, started.Job.Total)
			job := s.over(t, started.Job.ID)
			after := s.counted(t)

			require.Equal(t, reconcile.Done, job.State, job.Err)
			require.Equal(t, found, job.Counts)
			require.EqualValues(t, payments, job.Examined)
			require.InDelta(t, 1, job.Progress(), 0)
			require.Equal(t, 1, job.Attempts)
			require.Equal(t, string(by), job.Replica)
			require.Zero(t, job.Degraded)
			require.Empty(t, job.Err)
			require.Positive(t, job.Took)
			require.Positive(t, job.Rate())
			require.False(t, job.FinishedAt.Before(job.CreatedAt))
			_, known := job.ETA()
			require.False(t, known, "it is over")
			s.holds(t, payments)
			require.Zero(t, s.count(t, `SELECT count(*) FROM payments
				WHERE (status = 'reconciled') <> (reconciled_by IS NOT NULL AND reconciled_by = $1)`, job.ID))

			require.Equal(t, trips[by].postgres, job.DBTrips, "round-trips to Postgres")
			require.Equal(t, trips[by].redis, job.RedisTrips, "round-trips to Redis")
			require.Positive(t, job.OwnTrips)
			prepared := int64(0) // Postgres does not count that as a statement
			if by == reconcile.Buffered {
				prepared = 1
			}
			require.Equal(t, job.DBTrips-prepared, after-before, "what Postgres counted")
			require.Empty(t, s.kept(t, job.ID))
			replica.Kill()
		})
	}
}

// counted is how many statements of runs Postgres has executed so far, one for each round-trip: not those that fence a
// transaction, and not those for the record.
func (s stores) counted(t *testing.T) int64 {
	t.Helper()
	return s.count(t, `SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE toplevel AND (query ~
		'-- name: (reconcile_(page|ids|find|mark|mark_one|mark_all|finish)|buffer_generation)\n'
		OR lower(query) IN ('begin', 'commit', 'rollback'))`)
}

func TestALimitTakesTheFirst(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	replica := s.replica(t, reconcile.Options{})
	runs := func(by reconcile.Strategy, limit int, total int64) reconcile.Job {
		t.Helper()
		var started Started
		replica.Call("Start", Order{by, limit}, &started)
		job := s.over(t, started.Job.ID)
		require.Equal(t, reconcile.Done, job.State)
		require.Equal(t, total, job.Total)
		require.Equal(t, total, job.Examined)
		return job
	}
	for _, by := range reconcile.Strategies() {
		t.Run(string(by), func(t *testing.T) {
			require.NoError(t, s.asker.Reset(t.Context()))
			require.Equal(t, reconcile.Counts{Reconciled: 97, Amount: 1, Currency: 1, Missing: 1}, runs(by, 100, 100).Counts)
			s.holds(t, 100)
			// The three that disagree are still pending, and so among the next.
			require.Equal(t, reconcile.Counts{Reconciled: 94, Amount: 2, Currency: 2, Missing: 2}, runs(by, 100, 100).Counts)
			s.holds(t, 197)

			job := runs(by, 1_000_000, payments-agree(197))
			require.Equal(t, found.Reconciled-agree(197), job.Counts.Reconciled)
			s.holds(t, payments)
			require.Equal(t, reconcile.Counts{Amount: 10, Currency: 10, Missing: 10}, runs(by, 0, 30).Counts,
				"once more, with nothing left that agrees")

			_, err := s.pool.Exec(t.Context(), "UPDATE payments SET status = 'reconciled', reconciled_at = now() "+
				"WHERE status = 'pending'")
			require.NoError(t, err)
			job = runs(by, 0, 0)
			require.Equal(t, reconcile.Counts{}, job.Counts, "nothing is pending")
			require.InDelta(t, 1, job.Progress(), 0)
		})
	}
}

func TestTruth(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	truth := func() reconcile.Truth {
		now, err := s.asker.Truth(t.Context())
		require.NoError(t, err)
		return now
	}
	require.Equal(t, reconcile.Truth{Pending: payments, PendingThatAgree: agreeing}, truth())
	// Behind everybody's back: one that agrees, one that has no settlement, one that is a cent short.
	_, err := s.pool.Exec(t.Context(), "UPDATE payments SET status = 'reconciled', reconciled_at = now() "+
		"WHERE id IN (20, 21, 80)")
	require.NoError(t, err)
	require.Equal(t, reconcile.Truth{
		Pending: payments - 3, Reconciled: 3, PendingThatAgree: agreeing - 1, ReconciledThatDisagree: 2,
	}, truth())
}

func TestThereIsNoOtherStrategy(t *testing.T) {
	t.Parallel()
	var by reconcile.Strategy
	require.ErrorContains(t, by.UnmarshalText([]byte("magic")), "n_plus_one, batched_reads, buffered, single_statement")
	require.Empty(t, by)
	for _, s := range reconcile.Strategies() {
		require.NoError(t, by.UnmarshalText([]byte(s)))
		require.Equal(t, s, by)
	}
}
