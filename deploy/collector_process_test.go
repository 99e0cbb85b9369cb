package deploy_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metricsvc "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracesvc "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // what the collector sends is compressed
	"google.golang.org/protobuf/proto"

	"nervous/app/servicetest"
	"nervous/app/servicetest/otlp"
)

// collector is the real one with the real otel-collector.yaml, and what stands where Prometheus stands.
type collector struct {
	url     string
	metrics *prometheus
}

// startCollector returns when the collector is ready; it ends with the test. Its metrics arrive at out; tempo is where
// Tempo is said to be.
func startCollector(t *testing.T, out *otlp.Receiver, tempo string) collector {
	t.Helper()
	program := os.Getenv("OTELCOL")
	if program == "" {
		t.Skip("OTELCOL does not name a collector (otelcol-contrib)")
	}
	metrics := &prometheus{in: out}
	server := httptest.NewServer(http.StripPrefix("/api/v1/otlp", metrics))
	t.Cleanup(server.Close)
	grpcIn, httpIn, health := freeAddress(t), freeAddress(t), freeAddress(t)

	// All that is not as it is deployed: ports that are free here, and a shorter wait for what has no root.
	changed := filepath.Join(t.TempDir(), "changed.yaml")
	require.NoError(t, os.WriteFile(changed, fmt.Appendf(nil, `
extensions: {health_check: {endpoint: %q}}
receivers: {otlp: {protocols: {grpc: {endpoint: %q}, http: {endpoint: %q}}}}
processors: {tail_sampling: {decision_wait: 5s}}
`, health, grpcIn, httpIn), 0o600))

	ended := make(chan error, 1)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program,
		"--config="+filepath.Join(root, "otel-collector.yaml"), "--config="+changed)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.Env = append(os.Environ(), "TEMPO_OTLP_ENDPOINT="+tempo, "PROMETHEUS_URL="+server.URL,
		"GOMEMLIMIT="+deployedCollector(t).Environment["GOMEMLIMIT"])
	require.NoError(t, cmd.Start())
	servicetest.Guard(t, cmd.Process.Pid)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		select {
		case err := <-ended:
			require.NoError(t, err)
		case <-time.After(10 * time.Second):
			require.NoError(t, cmd.Process.Kill())
			t.Error("the collector did not end within 10 s")
		}
	})

	for again := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the collector has ended: %v", err)
		case <-again.C:
			if answers(t, "http://"+health) {
				return collector{url: "http://" + httpIn, metrics: metrics}
			}
		}
	}
}

// deployedCollector is what docker-compose.yml says of it.
func deployedCollector(t *testing.T) container {
	var compose struct{ Services map[string]container }
	parse(t, "docker-compose.yml", &compose)
	return compose.Services["otel-collector"]
}

func answers(t *testing.T, url string) bool {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// send exports spans as a replica would.
func (c collector) send(t *testing.T, export *tracesvc.ExportTraceServiceRequest) {
	t.Helper()
	body, err := proto.Marshal(export)
	require.NoError(t, err)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url+"/v1/traces", bytes.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/x-protobuf")
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode, "the collector refuses spans")
}

// prometheus is a door to a receiver that notes what the spans' metrics say of where they come from.
type prometheus struct {
	in *otlp.Receiver

	mu      sync.Mutex
	origins []map[string]string
}

// spansFrom lists the resources of the spans' metrics, one for each export.
func (d *prometheus) spansFrom() []map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.origins)
}

func (d *prometheus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = d.note(r.Header.Get("Content-Encoding"), body)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	d.in.ServeHTTP(w, r)
}

func (d *prometheus) note(encoding string, body []byte) error {
	if encoding == "gzip" {
		reader, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return err
		}
		if body, err = io.ReadAll(reader); err != nil {
			return err
		}
	}
	var sent metricsvc.ExportMetricsServiceRequest
	if err := proto.Unmarshal(body, &sent); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, from := range sent.GetResourceMetrics() {
		if from.GetScopeMetrics()[0].GetScope().GetName() != "spanmetricsconnector" {
			continue
		}
		origin := map[string]string{}
		for _, pair := range from.GetResource().GetAttributes() {
			origin[pair.GetKey()] = pair.GetValue().GetStringValue()
		}
		d.origins = append(d.origins, origin)
	}
	return nil
}

// tempo is a door for gRPC, which is how the collector speaks to Tempo, to a receiver that speaks HTTP.
type tempo struct {
	tracesvc.UnimplementedTraceServiceServer
	in *otlp.Receiver
}

func (d tempo) Export(
	ctx context.Context, sent *tracesvc.ExportTraceServiceRequest,
) (*tracesvc.ExportTraceServiceResponse, error) {
	body, err := proto.Marshal(sent)
	if err != nil {
		return nil, err
	}
	answer := httptest.NewRecorder()
	d.in.ServeHTTP(answer, httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/traces", bytes.NewReader(body)))
	if answer.Code != http.StatusOK {
		return nil, fmt.Errorf("the receiver says %s", answer.Body)
	}
	return &tracesvc.ExportTraceServiceResponse{}, nil
}

// startTempo returns the address of what stands where Tempo stands.
func startTempo(t *testing.T, in *otlp.Receiver) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	tracesvc.RegisterTraceServiceServer(server, tempo{in: in})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// freeAddress is one where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return listener.Addr().String()
}
