package seed

import (
	"context"
	"errors"
	"fmt"
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

// open reads the record, and makes the database ready for the scale that was asked for if it is not: a new one is
// checked to be empty, one with other rows of ours is emptied. Whoever asks for another scale wants that one, and what
// is thrown away can be made again.
func (r *run) open(ctx context.Context) error {
	rows, _ := r.conn.Query(ctx, "SELECT scale, edition, batches, newest, settled FROM seed") // Collect returns the error
	found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[record])
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		err = r.refuseRowsOfOthers(ctx)
	case err == nil && found.Scale == r.Scale.Name && found.Edition == edition:
		r.record = found
		return nil
	case err == nil:
		r.report(fmt.Sprintf("replacing the %s data (edition %d) by %s (edition %d)",
			found.Scale, found.Edition, r.Scale.Name, edition))
	}
	if err != nil {
		return err
	}
	return r.alone(ctx, func(tx pgx.Tx) error {
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

func (r *run) refuseRowsOfOthers(ctx context.Context) error {
	var others bool
	err := r.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM users) OR EXISTS (SELECT FROM posts)
		OR EXISTS (SELECT FROM views) OR EXISTS (SELECT FROM comments) OR EXISTS (SELECT FROM shares)
		OR EXISTS (SELECT FROM payments) OR EXISTS (SELECT FROM settlements)`).Scan(&others)
	if err == nil && others {
		return ErrNotEmpty
	}
	return err
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
