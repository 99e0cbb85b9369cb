package telemetry

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// spanCounter counts the spans of calls to stores as they end, and the calls that they account for. It sees exactly
// what the exporter is given, so its sums are our side of the audit's ledger; the servers' own counters are the other.
type spanCounter struct {
	spans, calls metric.Int64Counter
	labels       memo[label, []metric.AddOption]
}

type label struct{ system, operation string }

func newSpanCounter(provider metric.MeterProvider) (*spanCounter, error) {
	meter := provider.Meter(scope)
	spans, faultySpans := meter.Int64Counter(TelemetrySpans, metric.WithUnit("{span}"),
		metric.WithDescription("Ended spans of calls to stores"))
	calls, faultyCalls := meter.Int64Counter(TelemetryCalls, metric.WithUnit("{call}"),
		metric.WithDescription("Commands and statements that the ended spans account for"))
	return &spanCounter{spans: spans, calls: calls}, errors.Join(faultySpans, faultyCalls)
}

// OnEnd counts one span.
func (c *spanCounter) OnEnd(span sdktrace.ReadOnlySpan) {
	e, ok := readEntry(span)
	if !ok {
		return
	}
	name := e.operation
	if name == "" {
		name = span.Name()
	}
	c.count(c.spans, 1, e.system, name)
	for i, name := range e.names {
		c.count(c.calls, e.counts[i], e.system, name)
	}
	if e.isOneCall() {
		c.count(c.calls, 1, e.system, e.operation)
	}
}

func (c *spanCounter) count(counter metric.Int64Counter, n int64, system, operation string) {
	counter.Add(context.Background(), n, c.labels.get(label{system, operation}, label.options)...)
}

func (l label) options() []metric.AddOption {
	return []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(
		attribute.String("system", l.system), attribute.String("operation", l.operation)))}
}

// entry is what the ledger wants to know of a span.
type entry struct {
	system, operation string
	names             []string
	counts            []int64
	roundTrips        int64
	failed            bool
}

func readEntry(span sdktrace.ReadOnlySpan) (e entry, ok bool) {
	for _, a := range span.Attributes() {
		switch a.Key {
		case semconv.DBSystemNameKey:
			e.system = a.Value.AsString()
		case semconv.DBOperationNameKey:
			e.operation = a.Value.AsString()
		case SpanCallNames:
			e.names = a.Value.AsStringSlice()
		case SpanCallCounts:
			e.counts = a.Value.AsInt64Slice()
		case SpanRoundTrips:
			e.roundTrips = a.Value.AsInt64()
		case semconv.ErrorTypeKey:
			e.failed = true
		}
	}
	return e, e.system != "" && len(e.names) == len(e.counts)
}

// isOneCall: the span names an operation, does not say that it consists of several, and the server was asked. Redis
// counts a command that it answered with an error, Postgres does not count a statement that failed.
func (e entry) isOneCall() bool {
	if e.operation == "" || e.names != nil || e.roundTrips == 0 {
		return false
	}
	return !e.failed || e.system == semconv.DBSystemNameRedis.Value.AsString()
}

// OnStart does nothing.
func (c *spanCounter) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// Shutdown does nothing.
func (c *spanCounter) Shutdown(context.Context) error { return nil }

// ForceFlush does nothing.
func (c *spanCounter) ForceFlush(context.Context) error { return nil }
