package reconcile

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

// How many payments are read at a time: see the strategies.
const (
	readBatch   = 1000
	bufferBatch = 2000
)

func (w *worker) byStrategy(ctx context.Context) error {
	switch w.job.Strategy {
	case NPlusOne:
		return w.nPlusOne(ctx)
	case BatchedReads:
		return w.batchedReads(ctx)
	case Buffered:
		return w.buffered(ctx)
	case SingleStatement:
		return w.singleStatement(ctx)
	}
	return UnknownStrategyError{string(w.job.Strategy)}
}

// by is this run's mark on a payment.
func (w *worker) by() uuid.NullUUID { return uuid.NullUUID{UUID: w.job.ID, Valid: true} }

// nPlusOne is what a loop over objects does: a find for each, an update for each that agrees.
func (w *worker) nPlusOne(ctx context.Context) error {
	return w.pages(ctx, func(ctx context.Context, c *pgxpool.Conn, after int64) (last int64, err error) {
		ids, err := pendingIDs(ctx, c, after, w.job.through, bufferBatch)
		if err != nil {
			return 0, err
		}
		for _, id := range ids {
			finding, err := find(ctx, c, id)
			if err != nil {
				return 0, err
			}
			if err := w.found(ctx, c, compared{id, finding}); err != nil {
				return 0, err
			}
			last = id
		}
		return last, nil
	})
}

// batchedReads has learned to read a thousand at a time. Half of the round-trips are left: the writes.
func (w *worker) batchedReads(ctx context.Context) error {
	return w.pages(ctx, func(ctx context.Context, c *pgxpool.Conn, after int64) (last int64, err error) {
		page, err := compare(ctx, c, after, w.job.through, readBatch)
		if err != nil {
			return 0, err
		}
		for _, p := range page {
			if err := w.found(ctx, c, p); err != nil {
				return 0, err
			}
			last = p.ID
		}
		return last, nil
	})
}

// found marks the payment if it agrees, with a round-trip of its own.
func (w *worker) found(ctx context.Context, c conn, p compared) error {
	if p.Finding == Reconciled {
		if err := markOne(ctx, c, p.ID, w.by()); err != nil {
			return err
		}
	}
	w.examined(ctx, p)
	return nil
}

// rounds is how often buffered begins anew because Redis has lost something.
const rounds = 5

// buffered collects in Redis what agrees, and marks it all at once. Redis may have lost some of it, so Postgres has the
// last word: while it counts anything that agrees and is pending, the run is not over.
func (w *worker) buffered(ctx context.Context) error {
	ids := w.buffers.Open(w.job.ID.String())
	var lost error
	for range rounds {
		w.note(func(j *Job) { j.Counts = w.before }) // all that is pending is seen again
		if err := w.collect(ctx, ids.Add); err != nil {
			return err
		}
		if _, lost = ids.Flush(ctx); ctx.Err() != nil {
			return ctx.Err()
		}
		left, err := rest(ctx, w.pool, w.job.through)
		if err != nil {
			return errors.Join(err, lost)
		}
		if left.Reconciled == 0 {
			return nil
		}
		w.tel.repeated(ctx, left.Reconciled, lost)
	}
	return errors.Join(fmt.Errorf("something that agrees is still pending after %d rounds", rounds), lost)
}

// collect compares everything that is pending and hands over what agrees, page by page; what is refused is marked
// directly. A page is handed over while the next one is read: Redis and Postgres need not wait for each other.
func (w *worker) collect(ctx context.Context, add func(context.Context, ...int64) error) error {
	var handing errgroup.Group
	handing.SetLimit(1)
	err := w.pages(ctx, func(ctx context.Context, c *pgxpool.Conn, after int64) (last int64, err error) {
		page, err := compare(ctx, c, after, w.job.through, bufferBatch)
		if err != nil || len(page) == 0 {
			return 0, err
		}
		handing.Go(func() error { return w.handOver(ctx, page, add) })
		return page[len(page)-1].ID, nil
	})
	return errors.Join(err, handing.Wait())
}

func (w *worker) handOver(ctx context.Context, page []compared, add func(context.Context, ...int64) error) error {
	var agree []int64
	for _, p := range page {
		if p.Finding == Reconciled {
			agree = append(agree, p.ID)
		}
	}
	if err := add(ctx, agree...); err != nil {
		if _, err := mark(ctx, w.pool, agree, w.by()); err != nil {
			return err
		}
		w.note(func(j *Job) { j.Degraded += int64(len(agree)) })
	}
	w.examined(ctx, page...)
	return nil
}

// singleStatement has Postgres do it all, and asks it what is left.
func (w *worker) singleStatement(ctx context.Context) error {
	marked, err := markAll(ctx, w.pool, w.job.through, w.by())
	if err != nil {
		return err
	}
	left, err := rest(ctx, w.pool, w.job.through)
	if err != nil {
		return err
	}
	left.Reconciled = marked
	w.tel.items(ctx, w.job.Strategy, left)
	w.note(func(j *Job) { j.Examined, j.Counts = w.job.Total, left })
	return nil
}

// onPage works on the payments after the given one, and returns the last that it has seen, or 0 when there are none.
type onPage func(ctx context.Context, c *pgxpool.Conn, after int64) (last int64, err error)

// pages calls f until there are no more payments, each time with a connection, and in a trace of its own: a run's could
// grow to a hundred thousand spans.
func (w *worker) pages(ctx context.Context, f onPage) error {
	for after := int64(0); ; {
		last, err := w.page(ctx, after, f)
		if err != nil || last == 0 {
			return err
		}
		after = last
	}
}

func (w *worker) page(ctx context.Context, after int64, f onPage) (last int64, err error) {
	ctx, span := w.tel.startPage(ctx, w.job.Strategy)
	defer func() { w.tel.endPage(span, err) }()
	c, err := w.pool.Acquire(ctx)
	if err != nil {
		return 0, fmt.Errorf("connect to the database: %w", err)
	}
	defer c.Release()
	return f(ctx, c, after)
}

// examined counts payments that have been looked at.
func (w *worker) examined(ctx context.Context, page ...compared) {
	var counts Counts
	for _, p := range page {
		counts.add(p.Finding, 1)
	}
	w.tel.items(ctx, w.job.Strategy, counts)
	w.note(func(j *Job) {
		j.Examined = min(j.Examined+int64(len(page)), w.job.Total)
		j.Counts.Reconciled += counts.Reconciled
		j.Counts.Amount += counts.Amount
		j.Counts.Currency += counts.Currency
		j.Counts.Missing += counts.Missing
	})
}
