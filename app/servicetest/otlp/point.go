package otlp

import (
	"encoding/hex"
	"fmt"

	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
)

// Point is the last data point of one series.
type Point struct {
	// Kind is counter (a sum that only grows), updown, gauge or histogram.
	Metric, Unit, Kind, Replica string
	Attributes                  map[string]string
	// Value is the sum, the last value, or how many values a histogram has seen.
	Value float64
	// Bounds and Buckets are a histogram's: Buckets[i] values lie up to Bounds[i], the last ones above.
	Bounds  []float64
	Buckets []uint64
	// Exemplars are the traces that the values came from, in hexadecimal.
	Exemplars []string
}

// series is what tells a point from the others. fmt sorts maps.
func (p Point) series() string { return fmt.Sprint(p.Metric, p.Replica, p.Attributes) }

func readPoints(from *metrics.ResourceMetrics) (points []Point) {
	for _, scope := range from.GetScopeMetrics() {
		for _, m := range scope.GetMetrics() {
			template := Point{Metric: m.GetName(), Unit: m.GetUnit(), Replica: instance(from.GetResource())}
			switch data := m.GetData().(type) {
			case *metrics.Metric_Sum:
				template.Kind = "updown"
				if data.Sum.GetIsMonotonic() {
					template.Kind = "counter"
				}
				points = append(points, numbers(template, data.Sum.GetDataPoints())...)
			case *metrics.Metric_Gauge:
				template.Kind = "gauge"
				points = append(points, numbers(template, data.Gauge.GetDataPoints())...)
			case *metrics.Metric_Histogram:
				template.Kind = "histogram"
				points = append(points, histograms(template, data.Histogram.GetDataPoints())...)
			}
		}
	}
	return points
}

func numbers(template Point, from []*metrics.NumberDataPoint) (points []Point) {
	for _, n := range from {
		p := template
		p.Attributes, p.Exemplars = attributes(n.GetAttributes()), tracesOf(n.GetExemplars())
		p.Value = n.GetAsDouble() + float64(n.GetAsInt()) // one of them is not set
		points = append(points, p)
	}
	return points
}

func histograms(template Point, from []*metrics.HistogramDataPoint) (points []Point) {
	for _, h := range from {
		p := template
		p.Attributes, p.Exemplars = attributes(h.GetAttributes()), tracesOf(h.GetExemplars())
		p.Value, p.Bounds, p.Buckets = float64(h.GetCount()), h.GetExplicitBounds(), h.GetBucketCounts()
		points = append(points, p)
	}
	return points
}

func tracesOf(exemplars []*metrics.Exemplar) (ids []string) {
	for _, e := range exemplars {
		ids = append(ids, hex.EncodeToString(e.GetTraceId()))
	}
	return ids
}

func readLogs(from *logs.ResourceLogs) (records []Log) {
	for _, scope := range from.GetScopeLogs() {
		for _, record := range scope.GetLogRecords() {
			records = append(records, Log{
				Body: text(record.GetBody()), Severity: record.GetSeverityText(), Replica: instance(from.GetResource()),
				Trace: hex.EncodeToString(record.GetTraceId()), Span: hex.EncodeToString(record.GetSpanId()),
			})
		}
	}
	return records
}
