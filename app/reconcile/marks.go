package reconcile

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// markLive marks those of the payments that are pending and agree, and returns how many that were.
func (d *database) markLive(ctx context.Context, c conn, ids []int64) (marked int64, err error) {
	err = d.within(ctx, workTimeout, func(ctx context.Context) error {
		return c.QueryRow(ctx, markSQL, ids, uuid.NullUUID{}, nil).Scan(&marked)
	})
	if err != nil {
		return 0, fmt.Errorf("mark %d payments: %w", len(ids), err)
	}
	return marked, nil
}

// idRange is a range of a run as its owner knows it.
type idRange struct {
	run   uuid.UUID
	n     int
	owner uuid.UUID
	epoch int
	// The payments after the one and up to the other; that many were pending when it was cut.
	after, last, payments int64
	// pageAfter is where marking row by row goes on, pageLast where the page of an owner before ends.
	pageAfter, pageLast int64
}

// markIn marks payments of the range, and adds their number to its counts, in one round-trip and one transaction. The
// first statement locks the range and fails when it has another owner by now; the last one fails when the run does not
// go on. Then nothing is marked.
func (d *database) markIn(ctx context.Context, c conn, in idRange, sql string, args ...any) (marked int64, err error) {
	err = d.fenced(ctx, c, in, func(b *pgx.Batch) {
		b.Queue(sql, args...).QueryRow(func(row pgx.Row) error { return row.Scan(&marked) })
	})
	if err != nil {
		return 0, fmt.Errorf("mark payments of range %d: %w", in.n, err)
	}
	return marked, nil
}

func (d *database) markIDs(ctx context.Context, c conn, in idRange, ids []int64) (int64, error) {
	return d.markIn(ctx, c, in, markSQL, ids, in.run, in.n)
}

func (d *database) markAll(ctx context.Context, c conn, in idRange) (int64, error) {
	return d.markIn(ctx, c, in, markAllSQL, in.run, in.n, in.after, in.last)
}

// markOne marks a payment if it is pending and agrees, and says whether it was. Its page counts it.
func (d *database) markOne(ctx context.Context, c conn, in idRange, id int64) (marked bool, err error) {
	err = d.fenced(ctx, c, in, func(b *pgx.Batch) {
		b.Queue(markOneSQL, id, in.run).Exec(func(tag pgconn.CommandTag) error {
			marked = tag.RowsAffected() == 1
			return nil
		})
	})
	if err != nil {
		return false, fmt.Errorf("mark payment %d: %w", id, err)
	}
	return marked, nil
}

// deadlocks is how often a transaction is tried that others' locks have ended: the bank changes settlements in an order
// of its own.
const deadlocks = 3

// fenced sends statements between those two.
func (d *database) fenced(ctx context.Context, c conn, in idRange, statements func(*pgx.Batch)) (err error) {
	for range deadlocks {
		b := &pgx.Batch{}
		b.Queue(fenceSQL, in.run, in.n, in.owner, in.epoch)
		statements(b)
		b.Queue(sealSQL, in.run)
		err = d.within(ctx, workTimeout, func(ctx context.Context) error { return c.SendBatch(ctx, b).Close() })
		if _, within := c.(pgx.Tx); within || !deadlock(err) {
			break
		}
	}
	if stale(err) {
		return fmt.Errorf("%w: %w", errStale, err)
	}
	return err
}

// errStale says that the range is another worker's by now, or that the run does not go on.
var errStale = errors.New("nothing was marked")

// pageCount is what was marked row by row of a page that ends at last.
type pageCount struct {
	marked, examined int64
	last             int64
}

// turn counts a page, and notes where the next one ends.
func (d *database) turn(ctx context.Context, c conn, in idRange, done pageCount, next int64) error {
	err := d.fenced(ctx, c, in, func(b *pgx.Batch) {
		b.Queue(turnSQL, in.run, in.n, done.marked, done.last, next, done.examined)
	})
	if err != nil {
		return fmt.Errorf("turn a page of range %d: %w", in.n, err)
	}
	return nil
}

// finish ends a range and returns what is pending of it, unless something is left that the run has promised to mark:
// then it returns how much. With regardless, that counts as late.
func (d *database) finish(
	ctx context.Context, c conn, in idRange, regardless bool, done *pageCount,
) (left int64, rest Counts, err error) {
	err = d.fenced(ctx, c, in, func(b *pgx.Batch) {
		if done != nil {
			b.Queue(turnSQL, in.run, in.n, done.marked, done.last, done.last, done.examined)
		}
		b.Queue(finishSQL, in.run, in.n, regardless).QueryRow(func(row pgx.Row) error {
			return row.Scan(&left, &rest.Amount, &rest.Currency, &rest.Missing, &rest.Late)
		})
	})
	if err != nil {
		return 0, Counts{}, fmt.Errorf("finish range %d: %w", in.n, err)
	}
	return left, rest, nil
}
