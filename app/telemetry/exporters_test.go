package telemetry

import (
	"context"
	"encoding/pem"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	logspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracespb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	grpcserver "google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
)

// collector counts what arrives over gRPC, and keeps the header `key`.
type collector struct {
	tracespb.UnimplementedTraceServiceServer
	spans  atomic.Int64
	header atomic.Value
}

func (c *collector) Export(
	ctx context.Context, request *tracespb.ExportTraceServiceRequest,
) (*tracespb.ExportTraceServiceResponse, error) {
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			c.spans.Add(int64(len(scope.GetSpans())))
		}
	}
	if sent, ok := metadata.FromIncomingContext(ctx); ok && len(sent["key"]) > 0 {
		c.header.Store(sent["key"][0])
	}
	return &tracespb.ExportTraceServiceResponse{}, nil
}

type metricsCollector struct {
	metricspb.UnimplementedMetricsServiceServer
	exports atomic.Int64
}

func (c *metricsCollector) Export(
	context.Context, *metricspb.ExportMetricsServiceRequest,
) (*metricspb.ExportMetricsServiceResponse, error) {
	c.exports.Add(1)
	return &metricspb.ExportMetricsServiceResponse{}, nil
}

type logsCollector struct {
	logspb.UnimplementedLogsServiceServer
	exports atomic.Int64
}

func (c *logsCollector) Export(
	context.Context, *logspb.ExportLogsServiceRequest,
) (*logspb.ExportLogsServiceResponse, error) {
	c.exports.Add(1)
	return &logspb.ExportLogsServiceResponse{}, nil
}

func TestStart_Protocol(t *testing.T) {
	for name, secure := range map[string]bool{"grpc": false, "grpc with a certificate": true} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			var options []grpcserver.ServerOption
			scheme := "http://"
			if secure {
				scheme = "https://"
				https := httptest.NewTLSServer(nil) // for its certificate, which is for 127.0.0.1
				defer https.Close()
				certificate := filepath.Join(t.TempDir(), "ca.pem")
				require.NoError(t, os.WriteFile(certificate, pemOf(https.Certificate().Raw), 0o600))
				t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", certificate)
				options = append(options, grpcserver.Creds(credentials.NewServerTLSFromCert(&https.TLS.Certificates[0])))
			}
			server := grpcserver.NewServer(options...)
			defer server.Stop()
			spans, points, records := &collector{}, &metricsCollector{}, &logsCollector{}
			tracespb.RegisterTraceServiceServer(server, spans)
			metricspb.RegisterMetricsServiceServer(server, points)
			logspb.RegisterLogsServiceServer(server, records)
			go func() { _ = server.Serve(listener) }()
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", scheme+listener.Addr().String())
			t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "key=a%20value")

			_, shutdown := startIt(t)
			_, span := otel.Tracer("test").Start(t.Context(), "request")
			slog.Info("said")
			span.End()
			require.NoError(t, shutdown(t.Context()))
			require.EqualValues(t, 1, spans.spans.Load())
			require.Equal(t, "a value", spans.header.Load())
			require.Positive(t, points.exports.Load())
			require.Positive(t, records.exports.Load())
		})
	}
	t.Run("of one signal", func(t *testing.T) {
		c := receive(t)
		t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
		t.Setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
		t.Setenv("OTEL_METRICS_EXPORTER", "none")
		t.Setenv("OTEL_LOGS_EXPORTER", "none")
		_, shutdown := startIt(t)
		_, span := otel.Tracer("test").Start(t.Context(), "request")
		span.End()
		require.NoError(t, shutdown(t.Context()))
		require.Len(t, c.Spans("request"), 1)
	})
}

func TestStart_Console(t *testing.T) {
	earlier := os.Stdout
	defer func() { os.Stdout = earlier }()
	file, err := os.Create(filepath.Join(t.TempDir(), "stdout"))
	require.NoError(t, err)
	os.Stdout = file
	c := receive(t)
	t.Setenv("OTEL_TRACES_EXPORTER", "console,otlp")
	t.Setenv("OTEL_METRICS_EXPORTER", "console")
	t.Setenv("OTEL_LOGS_EXPORTER", "console")
	_, shutdown := startIt(t)
	_, span := otel.Tracer("test").Start(t.Context(), "request-42")
	slog.Info("said-43")
	span.End()
	require.NoError(t, shutdown(t.Context()))
	written, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	for _, signal := range []string{"request-42", "said-43", "go.goroutine.count"} {
		require.Contains(t, string(written), signal)
	}
	require.Len(t, c.Spans("request-42"), 1, "both were named")
}

// Every fault is listed, the variable is named, and what may be a secret is not shown.
func TestStart_FaultyEnvironment(t *testing.T) {
	earlier := slog.Default()
	t.Cleanup(func() { slog.SetDefault(earlier) })
	for variable, value := range map[string]string{
		"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
		"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "collector:4317", "OTEL_EXPORTER_OTLP_HEADERS": "hunter2",
		"OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "zstd", "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE": "/nowhere/ca.pem",
		"OTEL_TRACES_SAMPLER": "sometimes",
	} {
		t.Setenv(variable, value)
	}
	_, err := Start(t.Context(), Config{})
	require.EqualError(t, err, `OTEL_TRACES_EXPORTER names "zipkin" and must name otlp, console or none
OTEL_EXPORTER_OTLP_PROTOCOL is "http/json" and must be grpc or http/protobuf
OTEL_EXPORTER_OTLP_METRICS_ENDPOINT must be a URL, as http://collector:4318 is
OTEL_EXPORTER_OTLP_HEADERS must be pairs key=value, separated by commas, with values as in a URL
OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE names a file that cannot be read: open /nowhere/ca.pem: no such file or directory
OTEL_EXPORTER_OTLP_LOGS_COMPRESSION is "zstd" and must be none or gzip
OTEL_TRACES_SAMPLER is "sometimes" and must be one of always_on, always_off, traceidratio, parentbased_always_on, `+
		`parentbased_always_off, parentbased_traceidratio`)
}

func TestStart_MalformedResourceAttributes(t *testing.T) {
	c := receive(t)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,hunter2,")
	log, shutdown := startIt(t)
	_, span := otel.Tracer("test").Start(t.Context(), "request")
	span.End()
	require.NoError(t, shutdown(t.Context()))
	require.Equal(t, "test", c.Resource()["deployment.environment"])
	lines := log.lines()
	require.Len(t, lines, 1)
	require.Equal(t, "WARN", lines[0]["level"])
	require.Contains(t, lines[0]["msg"], "OTEL_RESOURCE_ATTRIBUTES")
	require.NotContains(t, lines[0]["msg"], "hunter2")
}

func pemOf(certificate []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
}
