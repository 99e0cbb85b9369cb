// Package otlp receives what a service exports, for tests that ask what really left the process: spans with their
// links, the metrics' series, logs.
//
//	r := otlp.Receive(t)
//	start the service with OTEL_EXPORTER_OTLP_ENDPOINT=r.URL()
//	r.Until(t, "the answer's span", func() bool { return len(r.Spans("GET /posts/trending")) == 1 })
//
// How it fails: what cannot be read is refused with 400, as a collector would, and fails the test; what its sender
// breaks off is as if it had not been sent. What never arrives ends Until, and so the test, with the names of what did.
package otlp

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	logs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	metrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	traces "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// patience is how long Until waits. A batch travels for a second, on a busy machine for some.
const patience = 30 * time.Second

// Receiver answers OTLP over HTTP (protobuf) and keeps what arrives, as long as its test.
type Receiver struct {
	server *httptest.Server

	mu      sync.Mutex
	spans   []Span
	points  map[string]Point // by series: the last one
	logs    []Log
	exports int               // of metrics
	from    map[string]string // who exported last
	refused []error
	changed chan struct{} // closed and replaced whenever something arrives
}

// Receive starts a receiver that ends with its test.
func Receive(t testing.TB) *Receiver {
	t.Helper()
	r := &Receiver{points: map[string]Point{}, changed: make(chan struct{})}
	r.server = httptest.NewServer(r)
	t.Cleanup(func() {
		r.server.CloseClientConnections() // exporters keep theirs, and Close waits for them
		r.server.Close()
		if err := errors.Join(r.refused...); err != nil {
			t.Errorf("the receiver refused what was exported: %v", err)
		}
	})
	return r
}

// URL is what OTEL_EXPORTER_OTLP_ENDPOINT wants.
func (r *Receiver) URL() string { return r.server.URL }

// Spans lists those of a name, in the order of their arrival; all if it is empty.
func (r *Receiver) Spans(name string) []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []Span
	for _, s := range r.spans {
		if name == "" || s.Name == name {
			found = append(found, s)
		}
	}
	return found
}

// Points lists the last data point of each series of a metric; of all metrics if it is empty.
func (r *Receiver) Points(metric string) []Point {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []Point
	for _, series := range slices.Sorted(maps.Keys(r.points)) {
		if p := r.points[series]; metric == "" || p.Metric == metric {
			found = append(found, p)
		}
	}
	return found
}

// Logs lists the records, in the order of their arrival.
func (r *Receiver) Logs() []Log {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.logs)
}

// Exports is how often metrics have arrived.
func (r *Receiver) Exports() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.exports
}

// Resource says who exported last: the attributes of its resource.
func (r *Receiver) Resource() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.from)
}

// Until returns when the condition holds, looking again whenever something has arrived. It ends the test if that takes
// too long, and then says what it waited for.
func (r *Receiver) Until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	late := time.After(patience)
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if condition() {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%s: not within %v. There are %s", what, patience, r.summary())
		}
	}
}

// summary counts the spans by name.
func (r *Receiver) summary() string {
	counts := map[string]int{}
	for _, s := range r.Spans("") {
		counts[s.Name]++
	}
	return fmt.Sprintf("%d series, %d logs and the spans %v", len(r.Points("")), len(r.Logs()), counts)
}

// ServeHTTP takes one export.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	sent, err := io.ReadAll(request.Body)
	if err != nil {
		return // metrics are broken off like this when a service ends, and come once more, whole
	}
	body, err := plain(request, sent)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err = errors.Join(err, r.take(request.URL.Path, body)); err != nil {
		r.refused = append(r.refused, err)
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

func plain(request *http.Request, sent []byte) ([]byte, error) {
	if request.Header.Get("Content-Encoding") != "gzip" {
		return sent, nil
	}
	reader, err := gzip.NewReader(bytes.NewReader(sent))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(reader)
}

func (r *Receiver) take(path string, body []byte) error {
	switch path {
	case "/v1/traces":
		var sent traces.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &sent); err != nil {
			return err
		}
		for _, from := range sent.ResourceSpans {
			r.from = attributes(from.GetResource().GetAttributes())
			r.spans = append(r.spans, readSpans(from)...)
		}
	case "/v1/metrics":
		var sent metrics.ExportMetricsServiceRequest
		if err := proto.Unmarshal(body, &sent); err != nil {
			return err
		}
		r.exports++
		for _, from := range sent.ResourceMetrics {
			r.from = attributes(from.GetResource().GetAttributes())
			for _, p := range readPoints(from) {
				r.points[p.series()] = p
			}
		}
	case "/v1/logs":
		var sent logs.ExportLogsServiceRequest
		if err := proto.Unmarshal(body, &sent); err != nil {
			return err
		}
		for _, from := range sent.ResourceLogs {
			r.from = attributes(from.GetResource().GetAttributes())
			r.logs = append(r.logs, readLogs(from)...)
		}
	default:
		return fmt.Errorf("%s is no path of OTLP", path)
	}
	return nil
}
