package telemetry

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// work is something that a connection is busy with from one method of the tracer to another. It travels in the context
// that pgx hands from the one to the other.
type work struct {
	title      string
	operation  operation
	attributes []attribute.KeyValue
	isCall     bool // the server counts it as a statement, if it succeeds
	isCopy     bool

	ctx      context.Context
	span     trace.Span
	begun    time.Time
	contents contents // of a batch, as far as it succeeded
	within   *work    // a prepare is part of the query that needed it
	ended    bool
}

type workKey struct{}

func workIn(ctx context.Context) *work {
	w, _ := ctx.Value(workKey{}).(*work)
	return w
}

func (t *postgresTracer) begin(ctx context.Context, w work) context.Context {
	w.within = workIn(ctx)
	w.ctx, w.span = t.tracer.Start(ctx, w.title, t.client...)
	w.begun = time.Now()
	return context.WithValue(w.ctx, workKey{}, &w)
}

func (t *postgresTracer) end(ctx context.Context, conn *pgx.Conn, err error) {
	if w := workIn(ctx); w != nil {
		t.finish(w, conn, err)
	}
}

// finish ends a piece of work once: pgx reports some batches that failed early twice.
func (t *postgresTracer) finish(w *work, conn *pgx.Conn, err error) {
	if w.ended {
		return
	}
	w.ended = true
	took, trips, fault := time.Since(w.begun), takeRoundTrips(conn), postgresFault(err)
	if w.within == nil {
		t.charge(w.ctx, trips, took)
	} else {
		t.charge(w.ctx, trips, 0) // its time is part of the other's
	}
	w.operation.fault = fault.kind
	t.took(w.ctx, took, w.operation)

	if w.span.IsRecording() {
		w.span.SetAttributes(t.server...)
		w.span.SetAttributes(SpanRoundTrips.Int64(trips))
		w.span.SetAttributes(w.attributes...)
		w.describe()
		fault.describe(w.span)
	}
	w.span.End()
}

// describe names what was done. Only a call has an operation's name, because that is what makes the audit count it.
func (w *work) describe() {
	if w.operation.summary != "" {
		w.span.SetAttributes(semconv.DBQuerySummary(w.operation.summary))
	}
	if w.isCall {
		w.span.SetAttributes(semconv.DBOperationName(w.operation.name))
	}
	if w.contents.names != nil {
		w.span.SetAttributes(
			SpanCallNames.StringSlice(w.contents.names), SpanCallCounts.Int64Slice(w.contents.counts))
	}
}

// note makes a span of what is already over.
func (t *postgresTracer) note(ctx context.Context, title string, begun time.Time, trips int64, fault fault) {
	_, span := t.tracer.Start(ctx, title, trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(begun))
	if span.IsRecording() {
		span.SetAttributes(t.server...)
		span.SetAttributes(SpanRoundTrips.Int64(trips))
		fault.describe(span)
	}
	span.End()
}
