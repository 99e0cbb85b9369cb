package reconcile_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
	"nervous/app/reconcile"
	"nervous/app/servicetest"
	"nervous/app/telemetry"
)

// network is how a replica reaches its stores.
type network struct {
	Database, Redis string
	// RedisTimeout is the budget of a call. The default is long: a machine that is busy with other tests is not the fault
	// that a test is about.
	RedisTimeout time.Duration
}

// connect does what the service does at its start, see app/wire.go: what a run costs depends on it.
func (n network) connect(ctx context.Context) (*pgxpool.Pool, *redis.Client, error) {
	c, err := pgxpool.ParseConfig(n.Database)
	if err != nil {
		return nil, nil, err
	}
	c.MaxConns, c.AfterConnect = 4, reconcile.Prepare
	c.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool {
		//nolint:staticcheck // as in app/wire.go
		return p.IdleDuration > time.Second && p.Conn.PgConn().CheckConn() != nil
	}
	c.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "5000"
	if err := telemetry.Postgres(c); err != nil {
		return nil, nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	o := &redis.Options{Addr: n.Redis, OnConnect: buffer.LoadScripts, DialTimeout: 5 * time.Second}
	if o.ReadTimeout = n.RedisTimeout; o.ReadTimeout == 0 {
		o.ReadTimeout = 5 * time.Second
	}
	telemetry.RedisOptions(o)
	rdb := redis.NewClient(o)
	return pool, rdb, telemetry.Redis(rdb)
}

// stores are what replicas share: payments in Postgres, numbered from 1, and a Redis. The database writes down each
// time that a payment is marked, and forbids to mark one twice.
type stores struct {
	network
	redis *servicetest.RedisServer
	rdb   *redis.Client
	pool  *pgxpool.Pool
	// asker starts runs and asks about them, and leaves the work to others.
	asker *reconcile.Reconciler
}

const writeDownMarks = `
CREATE TABLE marks (payment bigint NOT NULL, marked_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION write_down() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF OLD.status = NEW.status THEN
		RAISE EXCEPTION 'payment % was % already', OLD.id, OLD.status;
	END IF;
	IF NEW.status = 'reconciled' THEN
		INSERT INTO marks (payment) VALUES (NEW.id);
	ELSE
		DELETE FROM marks WHERE payment = NEW.id;
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER write_down AFTER UPDATE ON payments FOR EACH ROW EXECUTE FUNCTION write_down();`

// payments is how many there are; each hundred is as the seed makes it: one a cent short, one in another currency, one
// without a settlement.
const (
	payments = 1_000
	agreeing = payments / 100 * 97
)

// found is what a run over all of them finds.
var found = reconcile.Counts{Reconciled: agreeing, Amount: 10, Currency: 10, Missing: 10}

func newStores(t *testing.T) stores {
	t.Helper()
	return storesAt(t, servicetest.Postgres(t), servicetest.Redis(t))
}

func storesAt(t *testing.T, database string, server *servicetest.RedisServer) stores {
	t.Helper()
	s := stores{network: network{Database: database, Redis: server.Addr()}, redis: server}
	s.rdb = redis.NewClient(server.Options())
	t.Cleanup(func() { _ = s.rdb.Close() })
	var err error
	s.pool, err = pgxpool.New(t.Context(), database)
	require.NoError(t, err)
	t.Cleanup(s.pool.Close)
	_, err = s.pool.Exec(t.Context(), writeDownMarks)
	require.NoError(t, err)
	_, err = s.pool.Exec(t.Context(), `INSERT INTO payments (id, reference, amount_minor, currency)
		SELECT n, n::text, 100 + n, 'EUR' FROM generate_series(1, $1::bigint) n`, payments)
	require.NoError(t, err)
	_, err = s.pool.Exec(t.Context(), `INSERT INTO settlements (reference, amount_minor, currency)
		SELECT n::text, 100 + n - (n % 100 = 20)::int, CASE n % 100 WHEN 50 THEN 'CHF' ELSE 'EUR' END
		FROM generate_series(1, $1::bigint) n WHERE n % 100 <> 80`, payments)
	require.NoError(t, err)
	_, err = s.pool.Exec(t.Context(), "ANALYZE payments, settlements")
	require.NoError(t, err)
	s.asker = s.reconciler(t, reconcile.Options{})
	return s
}

// reconciler is one in this process. Nobody keeps its Run going.
func (s stores) reconciler(t *testing.T, o reconcile.Options) *reconcile.Reconciler {
	t.Helper()
	pool, rdb, err := s.connect(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() {
		pool.Close()
		_ = rdb.Close()
	})
	return reconcile.New(pool, rdb, o)
}

// replica is a process between the stores.
func (s stores) replica(t *testing.T, o reconcile.Options) *process {
	t.Helper()
	return startProcess(t, s.network, o)
}

// start starts a run over all payments, for others to take.
func (s stores) start(t *testing.T, by reconcile.Strategy, limit int) reconcile.Job {
	t.Helper()
	job, err := s.asker.Start(t.Context(), by, limit)
	require.NoError(t, err)
	return job
}

func (s stores) job(t *testing.T, id uuid.UUID) reconcile.Job {
	t.Helper()
	job, err := s.asker.Job(t.Context(), id)
	require.NoError(t, err)
	return job
}

// over returns the run once it is.
func (s stores) over(t *testing.T, id uuid.UUID) (job reconcile.Job) {
	t.Helper()
	eventually(t, func() bool {
		job = s.job(t, id)
		return job.State.Over()
	})
	return job
}

// taken returns once so many workers have had the run.
func (s stores) taken(t *testing.T, id uuid.UUID, attempts int) {
	t.Helper()
	eventually(t, func() bool { return s.job(t, id).Attempts >= attempts })
}

// middle is a payment that agrees.
const middle = 700

// hold keeps everybody from marking the payment in the middle, until release.
func (s stores) hold(t *testing.T) (release func()) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	lock, err := s.pool.Begin(ctx)
	require.NoError(t, err)
	_, err = lock.Exec(ctx, "SELECT FROM payments WHERE id = $1 FOR UPDATE", middle)
	require.NoError(t, err)
	release = func() { _ = lock.Rollback(ctx) } // again is no harm
	t.Cleanup(release)
	return release
}

// blocked returns once somebody waits for what is held.
func (s stores) blocked(t *testing.T) {
	t.Helper()
	eventually(t, func() bool { return s.waiting(t) > 0 })
}

// unblocked returns once nobody does any more.
func (s stores) unblocked(t *testing.T) {
	t.Helper()
	eventually(t, func() bool { return s.waiting(t) == 0 })
}

func (s stores) waiting(t *testing.T) int64 {
	t.Helper()
	return s.count(t, `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock'`)
}

func (s stores) count(t *testing.T, sql string, args ...any) (n int64) {
	t.Helper()
	require.NoError(t, s.pool.QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

func (s stores) marked(t *testing.T) int64 {
	t.Helper()
	return s.count(t, "SELECT count(*) FROM payments WHERE status = 'reconciled'")
}

// agree counts the payments from 1 to the last that agree.
func agree(last int64) (n int64) {
	for id := int64(1); id <= last; id++ {
		if id%100 != 20 && id%100 != 50 && id%100 != 80 {
			n++
		}
	}
	return n
}

// holds fails unless, of all payments, those from 1 to the last are marked that agree, each once.
func (s stores) holds(t *testing.T, last int64) {
	t.Helper()
	require.Equal(t, agree(last), s.marked(t), "marked")
	s.consistent(t)
	require.Zero(t, s.count(t, "SELECT count(*) FROM payments WHERE status = 'reconciled' AND id > $1", last))
}

// consistent fails if a payment is marked that does not agree, or one was marked more than once.
func (s stores) consistent(t *testing.T) {
	t.Helper()
	require.Zero(t, s.count(t, `SELECT count(*) FROM payments p LEFT JOIN settlements s USING (reference)
		WHERE p.status = 'reconciled' AND (s.amount_minor IS DISTINCT FROM p.amount_minor
			OR s.currency IS DISTINCT FROM p.currency)`), "marked, and do not agree")
	require.Equal(t, s.marked(t), s.count(t, "SELECT count(*) FROM marks"), "marks, each of which the trigger writes down")
}

// client is one at the Redis itself, whatever replicas reach it through.
func (s stores) client(*testing.T) *redis.Client { return s.rdb }

// kept lists what Redis keeps of a run's buffer.
func (s stores) kept(t *testing.T, id uuid.UUID) []string {
	t.Helper()
	keys, err := s.client(t).Keys(t.Context(), "default:buffer:*"+id.String()+"*").Result()
	require.NoError(t, err)
	return keys
}
