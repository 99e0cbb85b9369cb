package replica

import (
	"context"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// Telemetry remembers what a service says of itself by these providers, for Process.Metric and Process.Spans.
type Telemetry struct {
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider

	spans   *tracetest.SpanRecorder
	metrics *sdkmetric.ManualReader
}

func newTelemetry() *Telemetry {
	spans, metrics := tracetest.NewSpanRecorder(), sdkmetric.NewManualReader()
	return &Telemetry{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
		MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(metrics)),
		spans:          spans, metrics: metrics,
	}
}

// Question is about a metric, by some of its attributes.
type Question struct {
	Metric string
	By     []string
}

// Metric answers Process.Metric.
func (t *Telemetry) Metric(q Question, values *map[string]float64) error {
	*values = map[string]float64{}
	var collected metricdata.ResourceMetrics
	if err := t.metrics.Collect(context.Background(), &collected); err != nil {
		return err
	}
	for _, scope := range collected.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != q.Metric {
				continue
			}
			if err := q.answer(m.Data, *values); err != nil {
				return err
			}
		}
	}
	return nil
}

func (q Question) answer(data metricdata.Aggregation, values map[string]float64) error {
	switch data := data.(type) {
	case metricdata.Sum[int64]:
		addPoints(q, data.DataPoints, values)
	case metricdata.Sum[float64]:
		addPoints(q, data.DataPoints, values)
	case metricdata.Gauge[int64]:
		addPoints(q, data.DataPoints, values)
	case metricdata.Gauge[float64]:
		addPoints(q, data.DataPoints, values)
	case metricdata.Histogram[float64]:
		for _, point := range data.DataPoints {
			values[q.key(point.Attributes)] += float64(point.Count)
		}
	case metricdata.Histogram[int64]:
		for _, point := range data.DataPoints {
			values[q.key(point.Attributes)] += float64(point.Sum)
		}
	default:
		return fmt.Errorf("nobody has needed to read %T yet", data)
	}
	return nil
}

func addPoints[N int64 | float64](q Question, points []metricdata.DataPoint[N], values map[string]float64) {
	for _, point := range points {
		values[q.key(point.Attributes)] += float64(point.Value)
	}
}

func (q Question) key(attributes attribute.Set) string {
	var by []string
	for _, name := range q.By {
		value, _ := attributes.Value(attribute.Key(name)) // what is not there is empty
		by = append(by, value.String())
	}
	return strings.Join(by, " ")
}

// Span is a span that has ended.
type Span struct {
	Name, Trace, ID, Error string
	Root                   bool
	// Links are the ids of spans, by kind.
	Links      map[string][]string
	Attributes map[string]string
	// Events are their names, and what an error said.
	Events []string
}

// Spans answers Process.Spans.
func (t *Telemetry) Spans(name string, spans *[]Span) error {
	for _, ended := range t.spans.Ended() {
		if name == "" || ended.Name() == name {
			*spans = append(*spans, describe(ended))
		}
	}
	return nil
}

func describe(ended sdktrace.ReadOnlySpan) Span {
	s := Span{
		Name: ended.Name(), Trace: ended.SpanContext().TraceID().String(), ID: ended.SpanContext().SpanID().String(),
		Error: ended.Status().Description, Root: !ended.Parent().IsValid(),
		Links: map[string][]string{}, Attributes: map[string]string{},
	}
	for _, link := range ended.Links() {
		for _, kind := range link.Attributes {
			s.Links[kind.Value.String()] = append(s.Links[kind.Value.String()], link.SpanContext.SpanID().String())
		}
	}
	for _, a := range ended.Attributes() {
		s.Attributes[string(a.Key)] = a.Value.String()
	}
	for _, e := range ended.Events() {
		text := e.Name
		for _, a := range e.Attributes {
			if a.Key == "exception.message" {
				text = a.Value.AsString()
			}
		}
		s.Events = append(s.Events, text)
	}
	return s
}
