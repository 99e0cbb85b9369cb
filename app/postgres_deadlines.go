package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// answerMargin is how much longer than DATABASE_STATEMENT_TIMEOUT an answer may take to arrive.
const answerMargin = 5 * time.Second

// deadlines bounds every statement in the client. The server bounds it as well, but one that has failed over without
// closing connections says nothing any more, and without a deadline here a statement would wait for a quarter of an
// hour. As a tracer it is around every statement of the process.
type deadlines struct {
	within time.Duration
	pool   atomic.Pointer[pgxpool.Pool]
	reset  atomic.Int64 // Unix ms
}

type deadlineKey struct{}

// deadline is one statement's.
type deadline struct {
	asked, bounded context.Context //nolint:containedctx // to tell whose deadline has passed
	cancel         context.CancelFunc
}

func (d *deadlines) start(ctx context.Context) context.Context {
	bounded, cancel := context.WithTimeout(ctx, d.within)
	return context.WithValue(bounded, deadlineKey{}, deadline{ctx, bounded, cancel})
}

// end replaces the idle connections when a statement was not answered, because they may lead to the same dead server:
// at most once in that time, because it may also be only slow.
func (d *deadlines) end(ctx context.Context, err error) {
	this, is := ctx.Value(deadlineKey{}).(deadline)
	if !is {
		return
	}
	silent := err != nil && errors.Is(this.bounded.Err(), context.DeadlineExceeded) && this.asked.Err() == nil
	this.cancel()
	pool, last := d.pool.Load(), d.reset.Load()
	now := time.Now().UnixMilli()
	if silent && pool != nil && now-last >= d.within.Milliseconds() && d.reset.CompareAndSwap(last, now) {
		pool.Reset()
	}
}

// TraceQueryStart begins a Query, QueryRow or Exec.
func (d *deadlines) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return d.start(ctx)
}

// TraceQueryEnd comes when its rows are closed.
func (d *deadlines) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	d.end(ctx, data.Err)
}

// TraceBatchStart begins a SendBatch.
func (d *deadlines) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return d.start(ctx)
}

// TraceBatchQuery comes for each statement of a batch.
func (d *deadlines) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd comes when its results are closed.
func (d *deadlines) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	d.end(ctx, data.Err)
}
