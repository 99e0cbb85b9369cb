package telemetry

import (
	"cmp"
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// spanCounter counts the spans of calls to stores as they end, and the calls that they account for. It sees exactly
// what the exporter is given, so its sums are our side of the audit; the servers' own counters are the other.
type spanCounter struct {
	ended                    atomic.Int64 // of all spans, also those of no store
	spans, calls, roundTrips counts
}

func newSpanCounter(provider metric.MeterProvider) (*spanCounter, error) {
	c, meter := &spanCounter{}, provider.Meter(scope)
	return c, errors.Join(
		c.spans.export(meter, TelemetrySpans, "{span}", "Ended spans of calls to stores", "system", "operation"),
		c.calls.export(meter, TelemetryCalls, "{call}",
			"Commands and statements that the ended spans account for", "system", "operation"),
	)
}

// OnEnd counts one span.
func (c *spanCounter) OnEnd(span sdktrace.ReadOnlySpan) {
	c.ended.Add(1)
	e, ok := readEntry(span)
	if !ok {
		return
	}
	name := e.operation
	if name == "" {
		name = span.Name()
	}
	c.spans.add(e.system, name, 1)
	c.roundTrips.add(e.system, "", e.roundTrips)
	if e.failed && e.roundTrips == 0 {
		return // it was never sent
	}
	for i, name := range e.names {
		c.calls.add(e.system, name, e.counts[i])
	}
	if e.isOneCall() {
		c.calls.add(e.system, cmp.Or(e.statement, e.operation), 1)
	}
}

// entry is what the books want to know of a span.
type entry struct {
	system, operation string
	statement         string // its name, if it has one
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
		case semconv.DBQuerySummaryKey:
			e.statement = a.Value.AsString()
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
	return !e.failed || e.system == redisSystem
}

// OnStart does nothing.
func (c *spanCounter) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// Shutdown does nothing.
func (c *spanCounter) Shutdown(context.Context) error { return nil }

// ForceFlush does nothing.
func (c *spanCounter) ForceFlush(context.Context) error { return nil }
