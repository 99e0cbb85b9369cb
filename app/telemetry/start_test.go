package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"nervous/app/servicetest/otlp"
)

// These tests set the global providers and the environment, so they are not parallel.

// startIt starts telemetry and returns what it logs locally, and its shutdown.
func startIt(t *testing.T) (log *safeBuffer, shutdown func(context.Context) error) {
	t.Helper()
	earlier := slog.Default()
	t.Cleanup(func() { slog.SetDefault(earlier) })
	log = &safeBuffer{}
	shutdown, err := Start(t.Context(), Config{Instance: "replica-1", LogWriter: log})
	require.NoError(t, err)
	return log, shutdown
}

// receive stands where the collector would.
func receive(t *testing.T) *otlp.Receiver {
	t.Helper()
	r := otlp.Receive(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL())
	return r
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) lines() (lines []map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(s.b.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			fields = map[string]any{"not JSON": line}
		}
		lines = append(lines, fields)
	}
	return lines
}

func TestAllSignalsArriveAndShareTheTrace(t *testing.T) {
	c := receive(t)
	t.Setenv("OTEL_GO_X_OBSERVABILITY", "true")
	log, shutdown := startIt(t)

	// An upstream that does not sample must not switch our spans off.
	ctx := otel.GetTextMapPropagator().Extract(t.Context(), propagation.MapCarrier{
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"})
	ctx, span := otel.Tracer("test").Start(ctx, "request", trace.WithSpanKind(trace.SpanKindServer))
	slog.InfoContext(ctx, "something happened", "answer", 42)
	slog.DebugContext(ctx, "below the level")
	span.End()
	require.NoError(t, shutdown(t.Context()))

	const id = "0af7651916cd43dd8448eb211c80319c"
	require.Len(t, c.Spans(""), 1)
	require.Equal(t, "request", c.Spans("")[0].Name)
	require.Equal(t, id, c.Spans("")[0].Trace)
	require.Len(t, c.Logs(), 1)
	require.Equal(t, "something happened", c.Logs()[0].Body)
	require.Equal(t, id, c.Logs()[0].Trace)
	require.NotEmpty(t, c.Points("go.goroutine.count"), "the runtime's")
	capacity := c.Points("otel.sdk.processor.span.queue.capacity")
	require.Len(t, capacity, 1, "the SDK's own")
	require.InDelta(t, 32768, capacity[0].Value, 0, "our queue")
	resource := c.Resource()
	require.Equal(t, "nervous", resource["service.name"])
	require.Equal(t, "replica-1", resource["service.instance.id"])
	require.Contains(t, resource, "service.version")

	local := log.lines()
	require.Len(t, local, 1)
	require.Equal(t, "something happened", local[0]["msg"])
	require.Equal(t, id, local[0]["trace_id"])
	require.Equal(t, span.SpanContext().SpanID().String(), local[0]["span_id"])
}

func TestTheEnvironmentHasTheLastWord(t *testing.T) {
	c := receive(t)
	t.Setenv("OTEL_SERVICE_NAME", "other")
	t.Setenv("OTEL_METRICS_EXPORTER", "none")
	t.Setenv("OTEL_LOGS_EXPORTER", "none")
	log, shutdown := startIt(t)
	_, span := otel.Tracer("test").Start(t.Context(), "request")
	slog.Info("said")
	span.End()
	require.NoError(t, shutdown(t.Context()))
	require.Equal(t, "other", c.Resource()["service.name"])
	require.Len(t, c.Spans("request"), 1)
	require.Empty(t, c.Points(""))
	require.Empty(t, c.Logs())
	require.Len(t, log.lines(), 1)
}

func TestDisabledMeansSilent(t *testing.T) {
	c := receive(t)
	t.Setenv("OTEL_SDK_DISABLED", "true")
	log, shutdown := startIt(t)
	slog.Info("said")
	require.NoError(t, shutdown(t.Context()))
	require.Empty(t, c.Resource())
	require.Len(t, log.lines(), 1)
}

// Without a collector the service must run as before: one warning, not one an export, and an end that does not wait.
func TestNoCollectorIsOneWarning(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+listener.Addr().String())
	t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	log, shutdown := startIt(t)

	warned := func() (lines int) {
		for _, line := range log.lines() {
			if line["level"] == "WARN" {
				lines++
			}
		}
		return lines
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for ctx.Err() == nil { // fifty exports of each signal
		_, span := otel.Tracer("test").Start(ctx, "request")
		span.End()
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	require.Equal(t, 1, warned(), "%v", log.lines())

	ending, cancelEnding := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancelEnding()
	begun := time.Now()
	require.Error(t, shutdown(ending), "what was lost is said")
	require.Less(t, time.Since(begun), 3*time.Second)
	require.Equal(t, 1, warned())
}

// A collector that accepts and never answers must not hold up the end of the process.
func TestShutdownIsBoundedByItsContext(t *testing.T) {
	hold := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(hold) })
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	_, shutdown := startIt(t)
	_, span := otel.Tracer("test").Start(t.Context(), "request")
	slog.Info("said")
	span.End()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	require.ErrorIs(t, shutdown(ctx), context.DeadlineExceeded)
	require.Less(t, time.Since(begun), 3*time.Second)
}

func TestOccasionallyCountsWhatItHoldsBack(t *testing.T) {
	t.Parallel()
	limit := occasionally{every: time.Hour}
	_, ok := limit.now()
	require.True(t, ok)
	for range 3 {
		_, ok = limit.now()
		require.False(t, ok)
	}
	limit.next = time.Time{}
	held, ok := limit.now()
	require.True(t, ok)
	require.Equal(t, 3, held)
}
