package buffer_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
	"nervous/app/servicetest"
)

// ledger is what the tests' buffers are for: payments, numbered from 1, some of which have a settlement that agrees.
// Its database writes down each time that one is marked, and forbids to mark one twice.
type ledger struct {
	url  string
	pool *pgxpool.Pool
}

const writeDownMarks = `
CREATE TABLE marks (payment bigint NOT NULL, marked_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION write_down() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF OLD.status <> 'pending' OR NEW.status <> 'reconciled' THEN
		RAISE EXCEPTION 'payment % went from % to %', OLD.id, OLD.status, NEW.status;
	END IF;
	INSERT INTO marks (payment) VALUES (NEW.id);
	RETURN NULL;
END $$;
CREATE TRIGGER write_down AFTER UPDATE ON payments FOR EACH ROW EXECUTE FUNCTION write_down();`

// newLedger has so many payments; of ten one has no settlement, one a cent less and one another currency.
func newLedger(t testing.TB, payments int64) *ledger {
	t.Helper()
	return ledgerAt(t, servicetest.Postgres(t), payments)
}

func ledgerAt(t testing.TB, url string, payments int64) *ledger {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	_, err = pool.Exec(t.Context(), writeDownMarks)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `INSERT INTO payments (id, reference, amount_minor, currency)
		SELECT n, n::text, 100 + n, 'EUR' FROM generate_series(1, $1::bigint) n`, payments)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `INSERT INTO settlements (reference, amount_minor, currency)
		SELECT n::text, 100 + n - (n % 10 = 2)::int, CASE n % 10 WHEN 3 THEN 'USD' ELSE 'EUR' END
		FROM generate_series(1, $1::bigint) n WHERE n % 10 <> 1`, payments)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), "ANALYZE payments, settlements")
	require.NoError(t, err)
	return &ledger{url, pool}
}

// agree counts the payments from the first to the last that have a settlement that agrees.
func agree(first, last int64) (n int64) {
	for id := first; id <= last; id++ {
		if id%10 == 0 || id%10 > 3 {
			n++
		}
	}
	return n
}

// mark marks those of the payments that agree and are not marked.
func mark(ctx context.Context, tx pgx.Tx, _ buffer.Generation, ids []int64) (int64, error) {
	tag, err := tx.Exec(ctx, `UPDATE payments p SET status = 'reconciled', reconciled_at = now() FROM settlements s
		WHERE p.id = ANY($1) AND p.status = 'pending'
		AND s.reference = p.reference AND s.amount_minor = p.amount_minor AND s.currency = p.currency`, ids)
	return tag.RowsAffected(), err
}

// marked counts the payments from the first to the last that are marked.
func (l *ledger) marked(t testing.TB, first, last int64) (n int64) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	require.NoError(t, l.pool.QueryRow(ctx,
		"SELECT count(*) FROM payments WHERE status = 'reconciled' AND id BETWEEN $1 AND $2", first, last).Scan(&n))
	return n
}

// settled returns once all payments from the first to the last that agree are marked.
func (l *ledger) settled(t *testing.T, first, last int64) {
	t.Helper()
	agree := agree(first, last)
	eventually(t, func() bool { return l.marked(t, first, last) == agree })
}

// holds fails unless, of all payments, those from the first to the last are marked that agree, each once.
func (l *ledger) holds(t testing.TB, first, last int64) {
	t.Helper()
	var marked, wrong, marks int64
	require.NoError(t, l.pool.QueryRow(t.Context(), `
		SELECT count(*), count(*) FILTER (WHERE p.id NOT BETWEEN $1 AND $2 OR s.amount_minor IS DISTINCT FROM p.amount_minor
			OR s.currency IS DISTINCT FROM p.currency), (SELECT count(*) FROM marks)
		FROM payments p LEFT JOIN settlements s USING (reference) WHERE p.status = 'reconciled'`,
		first, last).Scan(&marked, &wrong, &marks))
	require.Equal(t, agree(first, last), marked, "marked")
	require.Zero(t, wrong, "marked, and do not agree or were never added")
	require.Equal(t, marked, marks, "marks that were set, each of which the trigger writes down")
}

// generations counts the records of flushes.
func (l *ledger) generations(t testing.TB) (n int) {
	t.Helper()
	require.NoError(t, l.pool.QueryRow(t.Context(), "SELECT count(*) FROM buffer_generations").Scan(&n))
	return n
}

// blocked returns once a transaction waits for another to end.
func (l *ledger) blocked(t *testing.T) {
	t.Helper()
	eventually(t, func() bool {
		var waits bool
		require.NoError(t, l.pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits))
		return waits
	})
}

// What these tests prove hangs on the ledger: it must not bear what they look for.
func TestTheLedgerForbidsToMarkTwice(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 10)
	const careless = "UPDATE payments SET status = 'reconciled', reconciled_at = now() WHERE id = 5"
	_, err := l.pool.Exec(t.Context(), careless)
	require.NoError(t, err)
	_, err = l.pool.Exec(t.Context(), careless)
	require.ErrorContains(t, err, "payment 5 went from reconciled to reconciled")
	l.holds(t, 5, 5)
}
