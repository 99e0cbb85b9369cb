package telemetry

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"nervous/app/roundtrips"
)

// Postgres instruments the pool that will be made from the configuration: call it last before pgxpool.NewWithConfig.
//
// Every query, batch, copy, prepare and connect is a span, with or without a span around it, and so is the wait for a
// connection where there was one to speak of. A span carries the round-trips that the server answered meanwhile; what
// pgx does without telling (a de-allocation after a failed statement) is on the next span of that connection, or, when
// the connection goes back to the pool first (Pool.Ping), on a span of its own named UNTRACED. So is the answer to a
// query that was cancelled. Not covered: the request that cancels a query, which goes over a connection that no hook
// sees.
func Postgres(config *pgxpool.Config) error {
	wire, err := newWire(otel.GetMeterProvider())
	if err != nil {
		return err
	}
	process.watch(wire)
	return instrumentPostgres(config, wire, otel.GetTracerProvider(), otel.GetMeterProvider())
}

func instrumentPostgres(
	config *pgxpool.Config, wire *wire, tracers trace.TracerProvider, meters metric.MeterProvider,
) error {
	if config.ConnConfig.Tracer != nil {
		return errors.New("instrument Postgres: the configuration already has a tracer")
	}
	book, err := newCosts(roundtrips.Postgres, semconv.DBSystemNamePostgreSQL, meters)
	if err != nil {
		return err
	}
	tracer := &postgresTracer{
		costs:  book,
		tracer: tracers.Tracer(scope),
		client: []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient)},
		server: []attribute.KeyValue{
			semconv.DBSystemNamePostgreSQL,
			semconv.DBNamespace(config.ConnConfig.Database),
			semconv.ServerAddress(config.ConnConfig.Host),
			semconv.ServerPort(int(config.ConnConfig.Port)),
		},
	}
	config.ConnConfig.Tracer = tracer
	readAlong(config.ConnConfig, wire, tracer.untraced)
	if prepare := config.AfterConnect; prepare != nil {
		// Like the connection itself it will serve whoever comes, and not only the request that opened it.
		config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			return prepare(roundtrips.With(ctx, nil), conn)
		}
	}
	return nil
}

// postgresTracer implements pgx's tracer interfaces: what happens at each of the moments that pgx tells of. How a piece
// of work is begun and ended is in postgres_work.go.
type postgresTracer struct {
	*costs
	tracer trace.Tracer
	client []trace.SpanStartOption
	server []attribute.KeyValue
}

// TraceQueryStart begins a Query, QueryRow or Exec.
func (t *postgresTracer) TraceQueryStart(
	ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData,
) context.Context {
	s := nameStatement(data.SQL)
	return t.begin(ctx, work{title: s.title(), operation: operation{name: s.word, summary: s.name}, isCall: true})
}

// TraceQueryEnd comes when the rows are closed, so the time includes reading them.
func (t *postgresTracer) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	t.end(ctx, conn, data.Err)
}

// TraceBatchStart begins a SendBatch.
func (t *postgresTracer) TraceBatchStart(
	ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData,
) context.Context {
	s := nameBatch(data.Batch)
	return t.begin(ctx, work{title: s.title(), operation: operation{name: s.word, summary: s.name}, isCall: true,
		attributes: []attribute.KeyValue{semconv.DBOperationBatchSize(data.Batch.Len())}})
}

// TraceBatchQuery comes for each statement of a batch. It is counted and gets no span of its own: a batch may have
// thousands, and none has a duration that would mean anything.
func (t *postgresTracer) TraceBatchQuery(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	if w := workIn(ctx); w != nil && data.Err == nil {
		w.contents.add(nameStatement(data.SQL).title())
	}
}

// TraceBatchEnd comes when the results are closed.
func (t *postgresTracer) TraceBatchEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchEndData) {
	t.end(ctx, conn, data.Err)
}

// TraceCopyFromStart begins a CopyFrom.
func (t *postgresTracer) TraceCopyFromStart(
	ctx context.Context, _ *pgx.Conn, data pgx.TraceCopyFromStartData,
) context.Context {
	table := strings.Join(data.TableName, ".")
	return t.begin(ctx, work{title: "COPY " + table, operation: operation{name: "COPY"}, isCall: true, isCopy: true,
		attributes: []attribute.KeyValue{semconv.DBCollectionName(table)}})
}

// TraceCopyFromEnd comes unless the copy ended before it began: see TracePrepareEnd.
func (t *postgresTracer) TraceCopyFromEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceCopyFromEndData) {
	t.end(ctx, conn, data.Err)
}

// TracePrepareStart begins a prepare, mostly one that pgx does for a statement that is new to the connection.
func (t *postgresTracer) TracePrepareStart(
	ctx context.Context, _ *pgx.Conn, data pgx.TracePrepareStartData,
) context.Context {
	s := nameStatement(data.SQL)
	return t.begin(ctx, work{title: "PREPARE " + s.title(), operation: operation{name: "PREPARE", summary: s.name}})
}

// TracePrepareEnd ends the prepare, and the copy that it was for if it failed: pgx gives up then and ends only this.
func (t *postgresTracer) TracePrepareEnd(ctx context.Context, conn *pgx.Conn, data pgx.TracePrepareEndData) {
	t.end(ctx, conn, data.Err)
	if w := workIn(ctx); data.Err != nil && w != nil && w.within != nil && w.within.isCopy {
		t.finish(w.within, conn, data.Err)
	}
}

// TraceConnectStart begins a connection. It will serve whoever comes, so nobody's tally pays for it.
func (t *postgresTracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return t.begin(roundtrips.With(ctx, nil), work{title: "CONNECT", operation: operation{name: "CONNECT"}})
}

// TraceConnectEnd comes when the server is ready for the first query.
func (t *postgresTracer) TraceConnectEnd(ctx context.Context, data pgx.TraceConnectEndData) {
	t.end(ctx, data.Conn, data.Err)
}

type acquireKey struct{}

// TraceAcquireStart only notes the time: most connections are at hand.
func (t *postgresTracer) TraceAcquireStart(
	ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData,
) context.Context {
	return context.WithValue(ctx, acquireKey{}, time.Now())
}

// TraceAcquireEnd makes a span of an acquire that waited, failed, or asked an idle connection whether it still lives.
// The waiting is not charged as the store's time.
func (t *postgresTracer) TraceAcquireEnd(
	ctx context.Context, _ *pgxpool.Pool, data pgxpool.TraceAcquireEndData,
) {
	const worthASpan = 2 * time.Millisecond
	begun, _ := ctx.Value(acquireKey{}).(time.Time)
	trips := takeRoundTrips(data.Conn)
	if trips == 0 && data.Err == nil && time.Since(begun) < worthASpan {
		return
	}
	t.charge(ctx, trips, 0)
	t.note(ctx, "ACQUIRE", begun, trips, postgresFault(data.Err))
}

// TraceRelease accounts for round-trips that no other method was told of.
func (t *postgresTracer) TraceRelease(_ *pgxpool.Pool, data pgxpool.TraceReleaseData) {
	if trips := takeRoundTrips(data.Conn); trips > 0 {
		t.untraced(trips)
	}
}

func (t *postgresTracer) untraced(roundTrips int64) {
	t.chargeNobody(context.Background(), roundTrips)
	t.note(context.Background(), "UNTRACED", time.Now(), roundTrips, fault{})
}
