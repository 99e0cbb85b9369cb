package reconcile

import (
	"context"
	"embed"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

//go:embed queries/*.sql
var queries embed.FS

var (
	pageSQL    = query("page")
	idsSQL     = query("ids")
	findSQL    = query("find")
	markOneSQL = query("mark_one")
	markSQL    = query("mark")
	markAllSQL = query("mark_all")
	restSQL    = query("rest")
	truthSQL   = query("truth")
)

func query(name string) string {
	text, err := queries.ReadFile("queries/" + name + ".sql")
	if err != nil {
		panic(err) // it was there when this was built
	}
	return string(text)
}

// Prepare prepares the queries of the strategies on a new connection. Hooked into the pool, it moves the driver's extra
// round-trips out of the first job that uses the connection.
func Prepare(ctx context.Context, conn *pgx.Conn) error {
	for _, sql := range []string{pageSQL, idsSQL, findSQL, markOneSQL, markSQL, markAllSQL, restSQL} {
		// Named by itself: that is where the driver looks when the same text is queried.
		if _, err := conn.Prepare(ctx, sql, sql); err != nil {
			return fmt.Errorf("reconcile: prepare: %w", err)
		}
	}
	return nil
}

// Finding is what comparing a payment with its settlement comes to.
type Finding string

// The findings: the `outcome` of reconcile.items.
const (
	// Reconciled: they agree.
	Reconciled Finding = "reconciled"
	// Amount: the settlement is of another amount.
	Amount Finding = "amount"
	// Currency: it is in another currency.
	Currency Finding = "currency"
	// Missing: there is none.
	Missing Finding = "missing"
)

// Counts is how many payments each finding was made of.
type Counts struct {
	Reconciled int64 `json:"reconciled"`
	Amount     int64 `json:"amount"`
	Currency   int64 `json:"currency"`
	Missing    int64 `json:"missing"`
}

func (c *Counts) add(f Finding, n int64) {
	switch f {
	case Reconciled:
		c.Reconciled += n
	case Amount:
		c.Amount += n
	case Currency:
		c.Currency += n
	case Missing:
		c.Missing += n
	}
}

func (c *Counts) byFinding() map[Finding]int64 {
	return map[Finding]int64{
		Reconciled: c.Reconciled, Amount: c.Amount, Currency: c.Currency, Missing: c.Missing,
	}
}

// Truth is what Postgres knows of all payments.
type Truth struct {
	Pending    int64 `json:"pending"`
	Reconciled int64 `json:"reconciled"`
	// PendingThatAgree should have been reconciled, once a run is over.
	PendingThatAgree int64 `json:"pending_that_agree"`
	// ReconciledThatDisagree must never be.
	ReconciledThatDisagree int64 `json:"reconciled_that_disagree"`
}

// conn is a connection, a pool or a transaction.
type conn interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// compared is a payment and what was found of it.
type compared struct {
	ID      int64
	Finding Finding
}

// compare reads the next payments of a range that are pending: one round-trip.
func compare(ctx context.Context, c conn, after, through int64, most int) ([]compared, error) {
	rows, _ := c.Query(ctx, pageSQL, after, through, most) // CollectRows returns the error
	page, err := pgx.CollectRows(rows, pgx.RowToStructByPos[compared])
	if err != nil {
		return nil, fmt.Errorf("compare payments: %w", err)
	}
	return page, nil
}

// pendingIDs lists them without looking at them.
func pendingIDs(ctx context.Context, c conn, after, through int64, most int) ([]int64, error) {
	rows, _ := c.Query(ctx, idsSQL, after, through, most) // CollectRows returns the error
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("list payments: %w", err)
	}
	return ids, nil
}

// find compares one payment.
func find(ctx context.Context, c conn, id int64) (finding Finding, err error) {
	if err := c.QueryRow(ctx, findSQL, id).Scan(&finding); err != nil {
		return "", fmt.Errorf("find payment %d: %w", id, err)
	}
	return finding, nil
}

// markOne marks a payment if it is pending and agrees.
func markOne(ctx context.Context, c conn, id int64, by uuid.NullUUID) error {
	if _, err := c.Exec(ctx, markOneSQL, id, by); err != nil {
		return fmt.Errorf("mark payment %d: %w", id, err)
	}
	return nil
}

// mark marks those of the payments that are pending and agree, and returns how many that were.
func mark(ctx context.Context, c conn, ids []int64, by uuid.NullUUID) (int64, error) {
	tag, err := c.Exec(ctx, markSQL, ids, by)
	if err != nil {
		return 0, fmt.Errorf("mark %d payments: %w", len(ids), err)
	}
	return tag.RowsAffected(), nil
}

// markAll marks all that are pending and agree, up to the given one.
func markAll(ctx context.Context, c conn, through int64, by uuid.NullUUID) (int64, error) {
	tag, err := c.Exec(ctx, markAllSQL, through, by)
	if err != nil {
		return 0, fmt.Errorf("mark all payments: %w", err)
	}
	return tag.RowsAffected(), nil
}

// rest counts what is pending by what comparing finds.
func rest(ctx context.Context, c conn, through int64) (counts Counts, err error) {
	rows, _ := c.Query(ctx, restSQL, through) // ForEachRow returns the error
	var finding Finding
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&finding, &n}, func() error {
		counts.add(finding, n)
		return nil
	})
	if err != nil {
		return Counts{}, fmt.Errorf("count what is pending: %w", err)
	}
	return counts, nil
}

// Truth counts all payments, and compares each: it reads both tables whole.
func (r *Reconciler) Truth(ctx context.Context) (t Truth, err error) {
	err = r.pool.QueryRow(ctx, truthSQL).Scan(&t.Pending, &t.Reconciled, &t.PendingThatAgree, &t.ReconciledThatDisagree)
	if err != nil {
		return Truth{}, fmt.Errorf("count payments: %w", err)
	}
	return t, nil
}

// Reset makes every payment pending again, and forgets the live events that wait. For a demo only. While a run goes on
// it refuses: RunningError.
func (r *Reconciler) Reset(ctx context.Context) error {
	if running, err := r.running(ctx); err != nil {
		return err
	} else if running != uuid.Nil {
		return RunningError{running}
	}
	// Redis may be away; what it holds of live events would be marked again when it is back, and no harm done.
	dropped := r.live.Drop(ctx)
	const reset = `-- name: reconcile_reset
WITH one_at_a_time AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtext('reconcile_mark')))
UPDATE payments SET status = 'pending', reconciled_at = NULL, reconciled_by = NULL
FROM one_at_a_time
WHERE status = 'reconciled'`
	_, err := r.pool.Exec(ctx, reset)
	if err != nil {
		return fmt.Errorf("reset payments: %w", err)
	}
	// So that each run starts from the same: without the dead rows of the one before, and with a planner who knows that
	// everything is pending.
	if _, err := r.pool.Exec(ctx, "VACUUM (ANALYZE) payments"); err != nil {
		return fmt.Errorf("reset payments: %w", err)
	}
	return dropped
}
