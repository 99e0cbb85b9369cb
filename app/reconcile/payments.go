package reconcile

import (
	"context"
	"embed"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

//go:embed queries/*.sql
var queries embed.FS

var (
	pageSQL        = query("page")
	idsSQL         = query("ids")
	findSQL        = query("find")
	markOneSQL     = query("mark_one")
	markSQL        = query("mark")
	markAllSQL     = query("mark_all")
	turnSQL        = query("turn")
	finishSQL      = query("finish")
	changesSQL     = query("changes")
	disagreeingSQL = query("disagreeing")
	truthSQL       = query("truth")
)

const (
	fenceSQL = `-- name: reconcile_fence
SELECT reconcile_fence($1, $2, $3, $4)`
	sealSQL = `-- name: reconcile_seal
SELECT reconcile_seal($1)`
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
	for _, sql := range []string{
		pageSQL, idsSQL, findSQL, markOneSQL, markSQL, markAllSQL, turnSQL, finishSQL, fenceSQL, sealSQL,
	} {
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
	// Late agree by a settlement that was committed after the run had begun, and are for the next run.
	Late int64 `json:"late,omitempty"`
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

// compared is a payment and what was found of it.
type compared struct {
	ID      int64
	Finding Finding
}

// compare reads the next payments of a range that are pending: one round-trip.
func (d *database) compare(ctx context.Context, c conn, after, through int64, most int) (page []compared, err error) {
	err = d.within(ctx, workTimeout, func(ctx context.Context) error {
		rows, _ := c.Query(ctx, pageSQL, after, through, most) // CollectRows returns the error
		page, err = pgx.CollectRows(rows, pgx.RowToStructByPos[compared])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("compare payments: %w", err)
	}
	return page, nil
}

// pendingIDs lists them without looking at them.
func (d *database) pendingIDs(ctx context.Context, c conn, after, through int64, most int) (ids []int64, err error) {
	err = d.within(ctx, workTimeout, func(ctx context.Context) error {
		rows, _ := c.Query(ctx, idsSQL, after, through, most) // CollectRows returns the error
		ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list payments: %w", err)
	}
	return ids, nil
}

// find compares one payment.
func (d *database) find(ctx context.Context, c conn, id int64) (finding Finding, err error) {
	err = d.within(ctx, workTimeout, func(ctx context.Context) error {
		return c.QueryRow(ctx, findSQL, id).Scan(&finding)
	})
	if err != nil {
		return "", fmt.Errorf("find payment %d: %w", id, err)
	}
	return finding, nil
}

// Truth counts all payments, and compares each: it reads both tables whole.
func (r *Reconciler) Truth(ctx context.Context) (t Truth, err error) {
	err = r.db.within(ctx, wholeTableTimeout, func(ctx context.Context) error {
		return r.db.QueryRow(ctx, truthSQL).Scan(&t.Pending, &t.Reconciled, &t.PendingThatAgree, &t.ReconciledThatDisagree)
	})
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
	var dropped error
	for _, live := range r.live {
		dropped = errors.Join(dropped, live.Drop(ctx))
	}
	const reset = `-- name: reconcile_reset
WITH reconciled AS MATERIALIZED (
    SELECT id FROM payments WHERE status = 'reconciled' ORDER BY id FOR NO KEY UPDATE
)
UPDATE payments p SET status = 'pending', reconciled_at = NULL, reconciled_by = NULL
FROM reconciled r
WHERE p.id = r.id`
	// VACUUM, so that each run starts from the same: without the dead rows of the one before, and with statistics that say
	// that everything is pending.
	for _, statement := range []string{reset, "VACUUM (ANALYZE) payments"} {
		err := r.db.within(ctx, wholeTableTimeout, func(ctx context.Context) error {
			_, err := r.db.Exec(ctx, statement)
			return err
		})
		if err != nil {
			return fmt.Errorf("reset payments: %w", err)
		}
	}
	return dropped
}
