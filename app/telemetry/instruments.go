package telemetry

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"

	"nervous/app/roundtrips"
)

// The instruments that are this package's own. Beside them it records db.client.operation.duration and the connection
// metrics of OpenTelemetry's semantic conventions.
const (
	// StoreRoundTrips is a counter, {round_trip}: flushes that were followed by a wait for the answer, on one
	// connection. Attributes: store (postgres, redis), operation (what the tally in the context was opened for, a route
	// or a job; BackgroundOperation without one), strategy (the tally's, if it has one).
	StoreRoundTrips = "store.round_trips"

	// TelemetrySpans is a counter, {span}: ended spans of calls to stores. Attributes: system (postgresql, redis),
	// operation (the span's db.operation.name, else its name).
	TelemetrySpans = "telemetry.spans"

	// TelemetryCalls is a counter, {call}: the commands and statements that those spans account for, to be compared
	// with what the servers counted. A pipeline of three is one span and three calls; a prepare or a dial is a span and
	// no call; a failed statement is none either, because pg_stat_statements leaves it out. Attributes: system,
	// operation.
	TelemetryCalls = "telemetry.calls"
)

// BackgroundOperation is the `operation` of round-trips that nobody's tally is charged with: work without a tally, and
// what a client sends to set up a connection.
const BackgroundOperation = "background"

// The attributes of spans that the semantic conventions have no names for.
const (
	// SpanRoundTrips is how many round-trips the call took. Its sum over all spans is the number on the wire.
	SpanRoundTrips = attribute.Key("store.round_trips")
	// SpanRedisMiss is true where Redis answered nil: the key, field or element is not there.
	SpanRedisMiss = attribute.Key("redis.miss")
	// SpanCallNames and SpanCallCounts say what a pipeline or batch consisted of: the i-th operation, and how often.
	SpanCallNames = attribute.Key("store.calls.names")
	// SpanCallCounts belongs to SpanCallNames.
	SpanCallCounts = attribute.Key("store.calls.counts")
)

// ledger records what calls to one store cost. It is safe for concurrent use.
type ledger struct {
	store     roundtrips.Store
	system    attribute.KeyValue
	trips     metric.Int64Counter
	duration  metric.Float64Histogram
	accounts  memo[account, []metric.AddOption]
	durations memo[operation, []metric.RecordOption]
}

// account is who pays for round-trips.
type account struct{ operation, strategy string }

// operation is what a duration is told apart by. Empty parts are left out.
type operation struct{ name, procedure, summary, fault string }

func newLedger(store roundtrips.Store, system attribute.KeyValue, provider metric.MeterProvider) (*ledger, error) {
	meter := provider.Meter(scope)
	trips, faultyTrips := meter.Int64Counter(StoreRoundTrips, metric.WithUnit("{round_trip}"),
		metric.WithDescription("Flushes followed by a wait for the answer, on one connection"))
	conventional := dbconv.ClientOperationDuration{}
	duration, faultyDuration := meter.Float64Histogram(conventional.Name(), metric.WithUnit(conventional.Unit()),
		metric.WithDescription(conventional.Description()))
	return &ledger{store: store, system: system, trips: trips, duration: duration},
		errors.Join(faultyTrips, faultyDuration)
}

// charge books n round-trips that took d together to the tally in the context.
func (l *ledger) charge(ctx context.Context, n int64, d time.Duration) {
	tally := roundtrips.From(ctx)
	tally.Add(l.store, n, d)
	l.book(ctx, n, account{tally.Operation(), tally.Strategy()})
}

// chargeNobody books n round-trips that serve whoever uses the connection next.
func (l *ledger) chargeNobody(ctx context.Context, n int64) { l.book(ctx, n, account{}) }

func (l *ledger) book(ctx context.Context, n int64, a account) {
	if n > 0 {
		l.trips.Add(ctx, n, l.accounts.get(a, l.accountOptions)...)
	}
}

// took records a duration; the context's span becomes the exemplar.
func (l *ledger) took(ctx context.Context, d time.Duration, o operation) {
	l.duration.Record(ctx, d.Seconds(), l.durations.get(o, l.durationOptions)...)
}

func (l *ledger) accountOptions(a account) []metric.AddOption {
	if a.operation == "" {
		a.operation = BackgroundOperation
	}
	attributes := []attribute.KeyValue{
		attribute.String("store", string(l.store)), attribute.String("operation", a.operation)}
	attributes = appendKnown(attributes, "strategy", a.strategy)
	return []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(attributes...))}
}

func (l *ledger) durationOptions(o operation) []metric.RecordOption {
	attributes := []attribute.KeyValue{l.system, semconv.DBOperationName(o.name)}
	attributes = appendKnown(attributes, semconv.DBStoredProcedureNameKey, o.procedure)
	attributes = appendKnown(attributes, semconv.DBQuerySummaryKey, o.summary)
	attributes = appendKnown(attributes, semconv.ErrorTypeKey, o.fault)
	return []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attributes...))}
}

func appendKnown(attributes []attribute.KeyValue, key attribute.Key, value string) []attribute.KeyValue {
	if value == "" {
		return attributes
	}
	return append(attributes, key.String(value))
}

// memo remembers what was made of each key, because building an attribute set costs more than the rest of a
// measurement. There are few keys, all soon known: a read takes no lock and allocates nothing, a new key copies the
// whole map.
type memo[K comparable, V any] struct {
	known  atomic.Pointer[map[K]V]
	adding sync.Mutex
}

func (m *memo[K, V]) get(key K, make func(K) V) V {
	if known := m.known.Load(); known != nil {
		if value, ok := (*known)[key]; ok {
			return value
		}
	}
	m.adding.Lock()
	defer m.adding.Unlock()
	more := map[K]V{}
	if known := m.known.Load(); known != nil {
		maps.Copy(more, *known)
	}
	value := make(key)
	more[key] = value
	m.known.Store(&more)
	return value
}
