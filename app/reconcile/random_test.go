package reconcile_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
)

var (
	seed  = flag.Uint64("seed", 0, "run the random test with this seed alone")
	seeds = flag.Int("seeds", 2, "how many seeds the random test tries, from 1 on")
)

// Replicas reconcile while they are paused, killed and rolled, Redis forgets everything, runs are cancelled, payments
// come, and the bank settles, corrects and deletes, by a schedule that follows from a seed. What happens then depends
// on the machine, too, so that a seed that failed may need several runs:
//
//	go test ./app/reconcile -run TestRandomSchedule -seed 7 -count 10
//	go test ./app/reconcile -run TestRandomSchedule -seeds 100
func TestRandomSchedule(t *testing.T) {
	t.Parallel()
	first, last := uint64(1), uint64(*seeds)
	if *seed != 0 {
		first, last = *seed, *seed
	}
	for s := first; s <= last; s++ {
		t.Run(fmt.Sprint("seed=", s), func(t *testing.T) {
			t.Parallel()
			newSchedule(t, s).run()
		})
	}
}

// schedule is one such run.
type schedule struct {
	stores
	t        *testing.T
	random   *rand.Rand
	options  reconcile.Options
	replicas []*process
	// rolled is a replica within this process, which leaves in order.
	rolled func()
	newest int64
	runs   []uuid.UUID
}

// writeDownChanges writes down each mark, and for which run, and each payment that is reopened.
const writeDownChanges = `
DROP TRIGGER write_down ON payments;
CREATE TABLE history (payment bigint NOT NULL, status text NOT NULL, run uuid);
CREATE FUNCTION write_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO history VALUES (NEW.id, NEW.status, NEW.reconciled_by);
	RETURN NULL;
END $$;
CREATE TRIGGER write_history AFTER UPDATE OF status ON payments FOR EACH ROW EXECUTE FUNCTION write_history();`

func newSchedule(t *testing.T, seed uint64) *schedule {
	t.Helper()
	s := &schedule{
		stores: newStores(t), t: t, random: rand.New(rand.NewPCG(seed, seed)), newest: payments, //nolint:gosec // a test's
		options: reconcile.Options{Silence: silence, BufferLease: lease, FlushAge: often, FlushSize: 300},
	}
	s.exec(t, writeDownChanges)
	for range 2 {
		s.replicas = append(s.replicas, s.replica(t, s.options))
	}
	s.rolled = s.roll()
	t.Cleanup(func() { s.rolled() })
	return s
}

// roll starts a replica in this process.
func (s *schedule) roll() (leave func()) {
	r := s.reconciler(s.t, s.options)
	ctx, stop := context.WithCancel(context.WithoutCancel(s.t.Context()))
	go func() { _ = r.Run(ctx) }()
	return func() {
		stop()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), time.Second)
		defer cancel()
		_ = r.Shutdown(bounded)
	}
}

func (s *schedule) run() {
	steps := []func(){
		s.start, s.start, s.start, s.cancel, s.pay, s.settle, s.settle, s.settle, s.correct, s.correct, s.delete,
		s.event, s.event, s.event, s.pause, s.kill, s.rollOut, s.forget,
	}
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for range 120 {
		steps[s.random.IntN(len(steps))]()
		<-again.C
	}
	for _, p := range s.replicas {
		p.Signal(syscall.SIGCONT)
	}
	s.check()
}

// any is a payment, more often one of the first.
func (s *schedule) any() int64 { return 1 + s.random.Int64N(s.newest) }

func (s *schedule) start() {
	all := reconcile.Strategies()
	job, err := s.asker.Start(s.t.Context(), all[s.random.IntN(len(all))], s.random.IntN(2)*s.random.IntN(2000))
	if _, busy := errors.AsType[reconcile.RunningError](err); busy {
		return
	}
	require.NoError(s.t, err)
	s.runs = append(s.runs, job.ID)
}

func (s *schedule) cancel() {
	if len(s.runs) > 0 && s.random.IntN(3) == 0 {
		_, err := s.asker.Cancel(s.t.Context(), s.runs[len(s.runs)-1])
		require.NoError(s.t, err)
	}
}

func (s *schedule) pay() {
	s.exec(s.t, `INSERT INTO payments (id, reference, amount_minor, currency)
		SELECT n, n::text, 100 + n, 'EUR' FROM generate_series($1::bigint, $1::bigint + 99) n`, s.newest+1)
	s.newest += 100
}

// bank changes settlements in a transaction of its own, half of the time over a while.
func (s *schedule) bank(sql string, args ...any) {
	slow := s.random.IntN(2) == 0
	err := pgx.BeginFunc(s.t.Context(), s.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(s.t.Context(), sql, args...)
		if slow {
			<-time.After(50 * time.Millisecond)
		}
		return err
	})
	if !isDeadlock(err) { // with a marker: the bank would send it again
		require.NoError(s.t, err)
	}
}

func isDeadlock(err error) bool {
	coded, is := errors.AsType[interface {
		error
		SQLState() string
	}](err)
	return is && coded.SQLState() == "40P01"
}

func (s *schedule) settle() {
	from := s.any()
	s.bank(`INSERT INTO settlements (reference, amount_minor, currency)
		SELECT reference, amount_minor, currency FROM payments WHERE id BETWEEN $1 AND $1 + 50
		ON CONFLICT (reference) DO UPDATE SET amount_minor = EXCLUDED.amount_minor, currency = EXCLUDED.currency`, from)
}

func (s *schedule) correct() {
	s.bank(`UPDATE settlements SET amount_minor = amount_minor + 1
		WHERE reference IN ($1::bigint::text, $2::bigint::text)`, s.any(), s.any())
}

func (s *schedule) delete() {
	s.bank("DELETE FROM settlements WHERE reference = $1::bigint::text", s.any())
}

func (s *schedule) event() {
	for range 20 {
		_, err := s.asker.Settled(s.t.Context(), s.any())
		require.NoError(s.t, err)
	}
}

func (s *schedule) pause() {
	p := s.replicas[s.random.IntN(len(s.replicas))]
	p.Signal(syscall.SIGSTOP)
	time.AfterFunc(time.Duration(s.random.Int64N(int64(2*silence))), func() { p.Signal(syscall.SIGCONT) })
}

func (s *schedule) kill() {
	if s.random.IntN(2) == 0 {
		i := s.random.IntN(len(s.replicas))
		s.replicas[i].Kill()
		s.replicas[i] = s.replica(s.t, s.options)
	}
}

func (s *schedule) rollOut() {
	s.rolled()
	s.rolled = s.roll()
}

func (s *schedule) forget() {
	if s.random.IntN(3) == 0 {
		require.NoError(s.t, s.client(s.t).FlushAll(s.t.Context()).Err())
	}
}

// check brings everything to an end, and fails unless the last run has kept its promise, and each run's record is what
// Postgres has seen.
func (s *schedule) check() {
	t := s.t
	for _, id := range s.runs {
		s.over(t, id)
	}
	last := s.stores.start(t, reconcile.Buffered, 0).ID
	require.Equal(t, reconcile.Done, s.over(t, last).State)
	truth, err := s.asker.Truth(t.Context())
	require.NoError(t, err)
	require.Zero(t, truth.PendingThatAgree)
	require.Zero(t, truth.ReconciledThatDisagree)

	states := map[reconcile.State]int{}
	reopened := int64(0)
	for _, id := range slices.Concat(s.runs, []uuid.UUID{last}) {
		job := s.job(t, id)
		states[job.State]++
		reopened += job.Reopened
		require.NotEqual(t, reconcile.Failed, job.State, job.Err)
		marks := s.count(t, "SELECT count(*) FROM history WHERE status = 'reconciled' AND run = $1", id)
		uncounted := int64(0)
		if job.Strategy == reconcile.NPlusOne || job.Strategy == reconcile.BatchedReads {
			// The page of a worker that has died is counted again, and lacks what was reopened since.
			uncounted = s.count(t, `SELECT count(DISTINCT payment) FROM history m JOIN history o USING (payment)
				WHERE m.run = $1 AND m.status = 'reconciled' AND o.status = 'pending'`, id)
		}
		require.LessOrEqual(t, job.Counts.Reconciled, marks)
		require.GreaterOrEqual(t, job.Counts.Reconciled, marks-uncounted,
			"%s by %s, %s after %d attempts", id, job.Strategy, job.State, job.Attempts)
	}
	require.Equal(t, s.count(t, "SELECT count(*) FROM history WHERE status = 'pending'"), reopened)
	t.Logf("%d payments, runs %v, %d reopened, %d marked by events", s.newest, states, reopened,
		s.count(t, "SELECT count(*) FROM history WHERE status = 'reconciled' AND run IS NULL"))
}
