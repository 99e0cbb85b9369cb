package reconcile_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
)

const settle = `INSERT INTO settlements (reference, amount_minor, currency)
	SELECT reference, amount_minor, currency FROM payments WHERE id = $1`

// Settlements go on arriving while a run goes on, as from a bank's file that is being loaded. The run ends all the
// same, and has marked whatever was settled before it began.
func TestPromise_SettlementsArriveDuringARun(t *testing.T) {
	t.Parallel()
	for name, pause := range map[string]time.Duration{"50 a second": 20 * time.Millisecond, "as fast as they can": 0} {
		t.Run(name, func(t *testing.T) {
			onEachStrategy(t, func(t *testing.T, by reconcile.Strategy) {
				s := newStores(t)
				const last = 4000
				s.exec(t, `INSERT INTO payments (id, reference, amount_minor, currency)
					SELECT n, n::text, 1, 'EUR' FROM generate_series($1::bigint + 1, $2::bigint) n`, payments, last)
				ctx, end := context.WithCancel(t.Context())
				ended := make(chan int64)
				go func() {
					id := int64(payments)
					for ctx.Err() == nil && id < last {
						id++
						if _, err := s.pool.Exec(ctx, settle, id); err != nil {
							break
						}
						select {
						case <-ctx.Done():
						case <-time.After(pause):
						}
					}
					ended <- id - payments
				}()
				job := s.over(t, s.replica(t, reconcile.Options{}).start(by).Job.ID)
				end()
				t.Logf("%d settlements in %v: %+v", <-ended, job.Took, job.Counts)
				require.Equal(t, reconcile.Done, job.State, job.Err)
				require.Equal(t, 1, job.Attempts)
				require.Zero(t, job.Degraded)
				require.GreaterOrEqual(t, job.Counts.Reconciled, int64(agreeing))
				require.Equal(t, s.marked(t), job.Counts.Reconciled)
				s.consistent(t)
			})
		})
	}
}

// A transaction of the bank began before the run and is committed during it. Its settlement belongs to the next run,
// whatever it says of its time.
func TestPromise_ASettlementIsCommittedDuringARun(t *testing.T) {
	onEachStrategy(t, func(t *testing.T, by reconcile.Strategy) {
		s := newStores(t)
		bank, err := s.pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { _ = bank.Rollback(context.WithoutCancel(t.Context())) }()
		const late = 80 // has no settlement
		_, err = bank.Exec(t.Context(), `INSERT INTO settlements (reference, amount_minor, currency, settled_at)
			VALUES ($1::bigint::text, 100 + $1, 'EUR', '2001-01-01')`, int64(late))
		require.NoError(t, err)
		release := s.hold(t)
		replica := s.replica(t, reconcile.Options{})
		id := replica.start(by).Job.ID
		s.blocked(t) // behind the late payment
		require.NoError(t, bank.Commit(t.Context()))
		release()
		job := s.over(t, id)
		require.Equal(t, reconcile.Done, job.State, job.Err)
		require.Equal(t, reconcile.Counts{Reconciled: agreeing, Amount: 10, Currency: 10, Missing: 9, Late: 1}, job.Counts)
		require.Zero(t, s.count(t, "SELECT count(*) FROM payments WHERE id = $1 AND status = 'reconciled'", late))

		job = s.over(t, replica.start(by).Job.ID)
		require.Equal(t, reconcile.Counts{Reconciled: 1, Amount: 10, Currency: 10, Missing: 9}, job.Counts)
		s.consistent(t)
	})
}

// A database that was restored from a dump has transaction numbers that are still to come. Its settlements are of
// before the run: what Redis loses of them is found.
func TestPromise_AfterARestore(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	s.exec(t, "ALTER TABLE settlements DISABLE TRIGGER ALL")
	s.exec(t, "UPDATE settlements SET changed = '1000000000'")
	s.exec(t, "ALTER TABLE settlements ENABLE TRIGGER ALL")
	replica, slow := s.behindProxy(t, reconcile.Options{BufferLease: lease})
	slow.Delay(time.Second)
	id := replica.start(reconcile.Buffered).Job.ID
	eventually(t, func() bool { return len(s.kept(t, id)) > 0 })
	require.NoError(t, s.client(t).FlushAll(t.Context()).Err())
	slow.Delay(0)
	require.Equal(t, found, s.over(t, id).Counts)
	s.holds(t, payments)
}
