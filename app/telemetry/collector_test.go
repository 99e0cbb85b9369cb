package telemetry

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"
)

// collector is what the OTLP exporters talk to: it keeps what arrives.
type collector struct {
	mu       sync.Mutex
	spans    map[string][]byte // trace id by span name
	metrics  map[string]int64  // a value by name, if whole numbers are added up
	logs     map[string][]byte // trace id by body
	resource map[string]string
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{spans: map[string][]byte{}, metrics: map[string]int64{}, logs: map[string][]byte{}}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	return c
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		zipped, _ := gzip.NewReader(bytes.NewReader(body))
		body, err = io.ReadAll(zipped)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch r.URL.Path {
	case "/v1/traces":
		var request coltrace.ExportTraceServiceRequest
		err = errors.Join(err, proto.Unmarshal(body, &request))
		for _, from := range request.ResourceSpans {
			c.describe(from.Resource)
			for _, scoped := range from.ScopeSpans {
				for _, span := range scoped.Spans {
					c.spans[span.Name] = span.TraceId
				}
			}
		}
	case "/v1/metrics":
		var request colmetrics.ExportMetricsServiceRequest
		err = errors.Join(err, proto.Unmarshal(body, &request))
		for _, from := range request.ResourceMetrics {
			for _, scoped := range from.ScopeMetrics {
				for _, m := range scoped.Metrics {
					c.metrics[m.Name] = 0
					for _, point := range m.GetSum().GetDataPoints() {
						c.metrics[m.Name] = point.GetAsInt()
					}
				}
			}
		}
	case "/v1/logs":
		var request collogs.ExportLogsServiceRequest
		err = errors.Join(err, proto.Unmarshal(body, &request))
		for _, from := range request.ResourceLogs {
			for _, scoped := range from.ScopeLogs {
				for _, record := range scoped.LogRecords {
					c.logs[record.Body.GetStringValue()] = record.TraceId
				}
			}
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func (c *collector) describe(r *resourcepb.Resource) {
	c.resource = map[string]string{}
	for _, a := range r.Attributes {
		c.resource[a.Key] = a.Value.GetStringValue()
	}
}
