package seed

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// record is the only row of the table seed: how far this database is.
type record struct {
	Scale   string
	Edition int
	Batches int       // loaded
	Newest  time.Time // where the data's time ends
	Settled bool
}

// tables are all that a seed fills.
const tables = "users, posts, views, comments, shares, payments, settlements"

// open reads the record, and makes the database ready for the scale that was asked for if it is not: tables that hold
// nothing but what a seed has written are emptied, because that can be written again.
func (r *run) open(ctx context.Context) error {
	rows, _ := r.conn.Query(ctx, "SELECT scale, edition, batches, newest, settled FROM seed") // Collect returns the error
	found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[record])
	replaced := fmt.Sprintf("replacing the %s data (edition %d) by %s (edition %d)",
		found.Scale, found.Edition, r.Scale.Name, edition)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		replaced = ""
	case err != nil:
		return err
	case found.Scale == r.Scale.Name && found.Edition == edition:
		r.record = found
		return nil
	}
	return r.alone(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "LOCK TABLE seed, "+tables+" IN ACCESS EXCLUSIVE MODE"); err != nil {
			return err
		}
		if err := r.refuseRowsOfOthers(ctx, tx, written(found)); err != nil {
			return err
		}
		if replaced != "" {
			r.report(replaced)
		}
		if _, err := tx.Exec(ctx, "TRUNCATE seed, "+tables); err != nil {
			return err
		}
		const begin = `INSERT INTO seed (scale, edition, batches, newest, settled) VALUES ($1, $2, 0, now(), false)
			RETURNING scale, edition, batches, newest, settled`
		rows, _ := tx.Query(ctx, begin, r.Scale.Name, edition)
		r.record, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[record])
		return err
	})
}

// lockPatience is how long a run waits for a table that it needs to itself. It stands at the head of the queue
// meanwhile, so that one forgotten transaction would stop the whole service behind it.
const lockPatience = 10 * time.Second

// alone runs f in a transaction whose locks are granted within lockPatience or not at all.
func (r *run) alone(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, r.conn, func(tx pgx.Tx) error {
		patience := fmt.Sprintf("SET LOCAL lock_timeout = %d", lockPatience.Milliseconds())
		if _, err := tx.Exec(ctx, patience); err != nil {
			return err
		}
		return f(tx)
	})
}

// written returns how many rows of each table a seed has written, or nothing if that is not known any more.
func written(found record) map[string]int {
	scale, err := ParseScale(found.Scale)
	if err != nil || found.Edition != edition {
		return nil
	}
	rows := map[string]int{}
	for _, b := range batches(scale)[:found.Batches] {
		rows[b.table] += b.rows
	}
	return rows
}

// refuseRowsOfOthers returns ErrNotEmpty if a table holds more rows than a seed has written, or rows with other ids.
func (r *run) refuseRowsOfOthers(ctx context.Context, tx pgx.Tx, written map[string]int) error {
	if r.Replace {
		return nil
	}
	for table := range strings.SplitSeq(tables, ", ") {
		others := fmt.Sprintf("SELECT EXISTS (SELECT FROM %s OFFSET %d)", table, written[table])
		if table == "users" || table == "posts" || table == "payments" {
			others += fmt.Sprintf(" OR EXISTS (SELECT FROM %s WHERE id NOT BETWEEN 1 AND %d)", table, written[table])
		}
		var is bool
		if err := tx.QueryRow(ctx, others).Scan(&is); err != nil {
			return err
		}
		if is {
			return fmt.Errorf("table %s: %w", table, ErrNotEmpty)
		}
	}
	return nil
}

// note changes the record, in the transaction of what it records.
func (r *run) note(ctx context.Context, tx pgx.Tx, change func(*record)) error {
	changed := r.record
	change(&changed)
	_, err := tx.Exec(ctx, "UPDATE seed SET batches = $1, newest = $2, settled = $3",
		changed.Batches, changed.Newest, changed.Settled)
	if err == nil {
		r.record = changed
	}
	return err
}
