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
	// operation (a command, or a statement's name, else its first word).
	TelemetryCalls = "telemetry.calls"

	// WireCalls is a counter, {call}: the commands that were written to connections, whether a hook was told of them or
	// not. Attributes: system (redis; Postgres's protocol does not tell statements apart so simply), operation.
	WireCalls = "telemetry.wire.calls"

	// WireRoundTrips is a counter, {round_trip}: the answers that connections waited for. Attribute: store. Its sum is
	// that of StoreRoundTrips, but for what is under way.
	WireRoundTrips = "telemetry.wire.round_trips"
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

// redisSystem is how spans and metrics name Redis.
var redisSystem = semconv.DBSystemNameRedis.Value.AsString()

// costs records what calls to one store cost. It is safe for concurrent use.
type costs struct {
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

func newCosts(store roundtrips.Store, system attribute.KeyValue, provider metric.MeterProvider) (*costs, error) {
	meter := provider.Meter(scope)
	trips, faultyTrips := meter.Int64Counter(StoreRoundTrips, metric.WithUnit("{round_trip}"),
		metric.WithDescription("Flushes followed by a wait for the answer, on one connection"))
	conventional := dbconv.ClientOperationDuration{}
	duration, faultyDuration := meter.Float64Histogram(conventional.Name(), metric.WithUnit(conventional.Unit()),
		metric.WithDescription(conventional.Description()))
	return &costs{store: store, system: system, trips: trips, duration: duration},
		errors.Join(faultyTrips, faultyDuration)
}

// charge books n round-trips that took d together to the tally in the context.
func (c *costs) charge(ctx context.Context, n int64, d time.Duration) {
	tally := roundtrips.From(ctx)
	tally.Add(c.store, n, d)
	c.book(ctx, n, account{tally.Operation(), tally.Strategy()})
}

// chargeNobody books n round-trips that serve whoever uses the connection next.
func (c *costs) chargeNobody(ctx context.Context, n int64) { c.book(ctx, n, account{}) }

func (c *costs) book(ctx context.Context, n int64, a account) {
	if n > 0 {
		c.trips.Add(ctx, n, c.accounts.get(a, c.accountOptions)...)
	}
}

// took records a duration; the context's span becomes the exemplar.
func (c *costs) took(ctx context.Context, d time.Duration, o operation) {
	c.duration.Record(ctx, d.Seconds(), c.durations.get(o, c.durationOptions)...)
}

func (c *costs) accountOptions(a account) []metric.AddOption {
	if a.operation == "" {
		a.operation = BackgroundOperation
	}
	attributes := []attribute.KeyValue{
		attribute.String("store", string(c.store)), attribute.String("operation", a.operation)}
	attributes = appendKnown(attributes, "strategy", a.strategy)
	return []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(attributes...))}
}

func (c *costs) durationOptions(o operation) []metric.RecordOption {
	attributes := []attribute.KeyValue{c.system, semconv.DBOperationName(o.name)}
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
		if value, ok := (*known)[key]; ok {
			return value // another has added it meanwhile, and may have given it away already
		}
		maps.Copy(more, *known)
	}
	value := make(key)
	more[key] = value
	m.known.Store(&more)
	return value
}
