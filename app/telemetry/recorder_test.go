package telemetry

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// recorder keeps in memory what would be exported, in providers of its own, so that tests may run in parallel.
type recorder struct {
	t        *testing.T
	exporter *tracetest.InMemoryExporter
	reader   *sdkmetric.ManualReader
	tracers  *sdktrace.TracerProvider
	meters   *sdkmetric.MeterProvider
	wire     *wire
}

func record(t *testing.T) *recorder {
	t.Helper()
	r := &recorder{t: t, exporter: tracetest.NewInMemoryExporter(), reader: sdkmetric.NewManualReader()}
	r.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(r.reader), sdkmetric.WithView(view))
	counting, err := newSpanCounter(r.meters)
	require.NoError(t, err)
	r.wire, err = newWire(r.meters)
	require.NoError(t, err)
	r.tracers = sdktrace.NewTracerProvider(append(sampling(),
		sdktrace.WithSpanProcessor(counting), sdktrace.WithSyncer(r.exporter))...)
	return r
}

// spans returns those that match all the given conditions, in the order of their ends.
func (r *recorder) spans(conditions ...func(tracetest.SpanStub) bool) (found tracetest.SpanStubs) {
	for _, span := range r.exporter.GetSpans() {
		matches := true
		for _, condition := range conditions {
			matches = matches && condition(span)
		}
		if matches {
			found = append(found, span)
		}
	}
	return found
}

func named(name string) func(tracetest.SpanStub) bool {
	return func(span tracetest.SpanStub) bool { return span.Name == name }
}

// only returns the one span of that name.
func (r *recorder) only(name string) tracetest.SpanStub {
	r.t.Helper()
	found := r.spans(named(name))
	require.Len(r.t, found, 1, "spans named %s among %s", name, r.names())
	return found[0]
}

func (r *recorder) names() (names []string) {
	for _, span := range r.exporter.GetSpans() {
		names = append(names, span.Name)
	}
	return names
}

// attributes of a span, or of a data point, by key.
func attributes(list []attribute.KeyValue) map[attribute.Key]any {
	byKey := map[attribute.Key]any{}
	for _, a := range list {
		byKey[a.Key] = a.Value.AsInterface()
	}
	return byKey
}

// roundTrips adds up what the spans say.
func (r *recorder) roundTrips() (sum int64) {
	for _, span := range r.spans() {
		n, _ := attributes(span.Attributes)[SpanRoundTrips].(int64)
		sum += n
	}
	return sum
}

func (r *recorder) metrics() map[string]metricdata.Metrics {
	r.t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(r.t, r.reader.Collect(context.WithoutCancel(r.t.Context()), &all))
	byName := map[string]metricdata.Metrics{}
	for _, ours := range all.ScopeMetrics {
		for _, m := range ours.Metrics {
			byName[m.Name] = m
		}
	}
	return byName
}

// counter returns the sums of a counter by the values of the attributes, in the order given and joined by spaces.
func (r *recorder) counter(name string, keys ...attribute.Key) map[string]int64 {
	r.t.Helper()
	sums := map[string]int64{}
	sum, ok := r.metrics()[name].Data.(metricdata.Sum[int64])
	if !ok {
		return sums
	}
	for _, point := range sum.DataPoints {
		var values []string
		for _, key := range keys {
			value, _ := point.Attributes.Value(key)
			values = append(values, value.AsString())
		}
		sums[strings.TrimSpace(strings.Join(values, " "))] += point.Value
	}
	return sums
}

// durations returns how many calls were timed, by db.operation.name.
func (r *recorder) durations() map[string]uint64 {
	counts := map[string]uint64{}
	histogram, _ := r.metrics()["db.client.operation.duration"].Data.(metricdata.Histogram[float64])
	for _, point := range histogram.DataPoints {
		name, _ := point.Attributes.Value(semconv.DBOperationNameKey)
		counts[name.AsString()] += point.Count
	}
	return counts
}

// everything is all text that would leave the process, for tests that look for what must not be in it.
func (r *recorder) everything() string {
	var b strings.Builder
	for _, span := range r.spans() {
		fmt.Fprintln(&b, span.Name, span.Status, attributes(span.Attributes))
		for _, event := range span.Events {
			fmt.Fprintln(&b, event.Name, attributes(event.Attributes))
		}
	}
	for _, m := range r.metrics() {
		fmt.Fprintf(&b, "%+v\n", m)
	}
	return b.String()
}

func mustInt(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	require.NoError(t, err)
	return n
}
