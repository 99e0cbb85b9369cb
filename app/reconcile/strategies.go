package reconcile

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
)

// How many payments are read at a time: see the strategies.
const (
	readBatch   = 1000
	idBatch     = 2000
	bufferBatch = 2500
)

// rounds is how often a buffered run goes through a range: again for what Redis has lost.
const rounds = 3

// reconcile brings a range to its end. All strategies keep the same promise: what was pending and agreed when the run
// began is marked, and counted with the range. finish checks that.
func (w *worker) reconcile(ctx context.Context, in idRange) error {
	defer w.ownedRanges.own(in)()
	w.begin(in)
	for round := 1; ; round++ {
		last, err := w.byStrategy(ctx, in)
		if err != nil {
			return err
		}
		left, rest, err := w.db.finish(ctx, w.db, in, false, last)
		if err != nil {
			return err
		}
		if left == 0 {
			w.finished(ctx, in, rest)
			return nil
		}
		if w.job.Strategy != Buffered || round == rounds {
			break
		}
		w.tel.repeated(ctx, left)
		w.begin(in)
	}
	// Payments that were committed late, or a Redis that loses whatever it is given: Postgres marks them by itself.
	marked, err := w.db.markAll(ctx, w.db, in)
	if err != nil {
		return err
	}
	w.degraded(marked)
	_, rest, err := w.db.finish(ctx, w.db, in, true, nil)
	if err != nil {
		return err
	}
	w.finished(ctx, in, rest)
	return nil
}

// byStrategy goes through a range once. Those that mark row by row return their last page, which is not counted yet.
func (w *worker) byStrategy(ctx context.Context, in idRange) (last *pageCount, err error) {
	switch w.job.Strategy {
	case NPlusOne:
		return w.nPlusOne(ctx, in)
	case BatchedReads:
		return w.batchedReads(ctx, in)
	case Buffered:
		return nil, w.buffered(ctx, in)
	case SingleStatement:
		marked, err := w.db.markAll(ctx, w.db, in)
		w.tel.items(ctx, w.job.Strategy, Counts{Reconciled: marked})
		return nil, err
	}
	return nil, UnknownStrategyError{string(w.job.Strategy)}
}

// nPlusOne is what a loop over objects does: a find for each, an update for each that agrees.
func (w *worker) nPlusOne(ctx context.Context, in idRange) (*pageCount, error) {
	return w.rowByRow(ctx, in, func(ctx context.Context, c conn, after int64) ([]compared, bool, error) {
		ids, err := w.db.pendingIDs(ctx, c, after, in.last, idBatch)
		page := make([]compared, len(ids))
		for i, id := range ids {
			page[i].ID = id
		}
		return page, len(ids) == idBatch, err
	})
}

// batchedReads reads a thousand at a time. Half of the round-trips are left: the writes.
func (w *worker) batchedReads(ctx context.Context, in idRange) (*pageCount, error) {
	return w.rowByRow(ctx, in, func(ctx context.Context, c conn, after int64) ([]compared, bool, error) {
		page, err := w.db.compare(ctx, c, after, in.last, readBatch)
		return page, len(page) == readBatch, err
	})
}

// read returns the next payments of a range, and whether there may be more. One without a finding is to be found.
type read func(ctx context.Context, c conn, after int64) (page []compared, more bool, err error)

// rowByRow marks each payment that agrees with a round-trip of its own. Each page is counted when the next one begins.
func (w *worker) rowByRow(ctx context.Context, in idRange, next read) (*pageCount, error) {
	done := &pageCount{last: in.pageAfter}
	before := in.pageLast // what an owner before has marked ends there, and is counted with the first page
	err := w.pages(ctx, in.pageAfter, in.last, func(ctx context.Context, c *pgxpool.Conn, after int64) (int64, error) {
		page, more, err := next(ctx, c, after)
		if err != nil || len(page) == 0 {
			return 0, err
		}
		last := max(page[len(page)-1].ID, before)
		if err := w.db.turn(w.bookkeeping(ctx), c, in, *done, last); err != nil {
			return 0, err
		}
		*done, before = pageCount{last: last}, 0
		for _, p := range page {
			if p.Finding == "" {
				if p.Finding, err = w.db.find(ctx, c, p.ID); err != nil {
					return 0, err
				}
			}
			if p.Finding == Reconciled {
				marked, err := w.db.markOne(ctx, c, in, p.ID)
				if err != nil {
					return 0, err
				}
				if marked {
					done.marked++
				}
			}
			done.examined++
			w.examined(ctx, p)
		}
		if !more {
			return 0, nil
		}
		return last, nil
	})
	return done, err
}

// buffered collects in Redis what agrees, and marks it all at once. Redis may lose some of it: finish finds that.
func (w *worker) buffered(ctx context.Context, in idRange) error {
	ids := w.buffers.Open(in.bufferName())
	if err := w.collect(ctx, in, ids.Add); err != nil {
		return err
	}
	_, err := ids.Flush(ctx)
	if _, refused := errors.AsType[*pgconn.PgError](err); refused || errors.Is(err, errStale) || ctx.Err() != nil {
		return err
	}
	if err != nil {
		// The payments are still pending: the next round collects them again.
		trace.SpanFromContext(ctx).RecordError(err)
	}
	return nil
}

// collect compares everything that is pending and hands over what agrees, page by page; what is refused is marked
// directly. A page is handed over while the next one is read: Redis and Postgres need not wait for each other.
func (w *worker) collect(
	ctx context.Context, in idRange, add func(context.Context, ...int64) error,
) error {
	var handing errgroup.Group
	handing.SetLimit(1)
	err := w.pages(ctx, in.after, in.last, func(ctx context.Context, c *pgxpool.Conn, after int64) (int64, error) {
		page, err := w.db.compare(ctx, c, after, in.last, bufferBatch)
		if err != nil || len(page) == 0 {
			return 0, err
		}
		handing.Go(func() error { return w.handOver(ctx, in, page, add) })
		if len(page) < bufferBatch {
			return 0, nil
		}
		return page[len(page)-1].ID, nil
	})
	return errors.Join(err, handing.Wait())
}

func (w *worker) handOver(
	ctx context.Context, in idRange, page []compared, add func(context.Context, ...int64) error,
) error {
	var agree []int64
	for _, p := range page {
		if p.Finding == Reconciled {
			agree = append(agree, p.ID)
		}
	}
	if err := add(ctx, agree...); err != nil {
		if _, err := w.db.markIDs(ctx, w.db, in, agree); err != nil {
			return err
		}
		w.degraded(int64(len(agree)))
	}
	w.examined(ctx, page...)
	return nil
}

// onPage works on the payments after the given one, and returns the last that it has seen, or 0 when there are no more.
type onPage func(ctx context.Context, c *pgxpool.Conn, after int64) (last int64, err error)

// pages calls f until there are no more payments, each time with a connection, and in a trace of its own: a run's could
// grow to a hundred thousand spans.
func (w *worker) pages(ctx context.Context, after, through int64, f onPage) error {
	for after < through {
		last, err := w.page(ctx, after, f)
		if err != nil || last == 0 {
			return err
		}
		after = last
	}
	return nil
}

func (w *worker) page(ctx context.Context, after int64, f onPage) (last int64, err error) {
	ctx, span := w.tel.startPage(ctx, w.job.Strategy)
	defer func() { w.tel.endPage(span, err) }()
	var c *pgxpool.Conn
	err = w.db.within(ctx, workTimeout, func(ctx context.Context) (err error) {
		c, err = w.db.Acquire(ctx)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("connect to the database: %w", err)
	}
	defer c.Release()
	return f(ctx, c, after)
}
