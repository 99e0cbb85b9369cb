package api_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// Who was limited, and from where, is nobody's business: no log, span, metric or answer says it. It is not parallel,
// because it listens to the process's log and telemetry.
func TestNobodyIsNamed(t *testing.T) {
	var exported bytes.Buffer
	log, tracers, meters := slog.Default(), otel.GetTracerProvider(), otel.GetMeterProvider()
	defer func() {
		slog.SetDefault(log)
		otel.SetTracerProvider(tracers)
		otel.SetMeterProvider(meters)
	}()
	spans, metrics := tracetest.NewInMemoryExporter(), sdkmetric.NewManualReader()
	slog.SetDefault(slog.New(slog.NewJSONHandler(&exported, &slog.HandlerOptions{Level: slog.LevelDebug})))
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)))
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(metrics)))

	s := newSurface(t, true, limited(3, 1), behindAProxy)
	const user, address, network = "somebody-4711", "203.0.113.7", "2001:db8:47:11"
	ask := func() {
		known := s.as(t, user)
		known.Set("X-Forwarded-For", address)
		for _, who := range []http.Header{known, from(address), from(network + "::1")} {
			for _, path := range []string{"/", "/posts/trending?strategy=lease", "/nowhere", "/"} {
				got := s.get(t, path, who)
				exported.Write(got.body)
				fmt.Fprint(&exported, got.Header)
			}
			got := s.send(t, http.MethodPost, "/reconcile", "", who)
			exported.Write(got.body)
		}
	}
	ask()
	require.NoError(t, s.redis.Kill())
	ask()

	var collected metricdata.ResourceMetrics
	require.NoError(t, metrics.Collect(t.Context(), &collected))
	strategies := map[string]bool{}
	for _, scope := range collected.ScopeMetrics {
		for _, m := range scope.Metrics {
			if served, ok := m.Data.(metricdata.Histogram[float64]); ok && m.Name == "http.server.request.duration" {
				for _, point := range served.DataPoints {
					strategy, _ := point.Attributes.Value("strategy")
					strategies[strategy.AsString()] = true
				}
			}
		}
	}
	require.Equal(t, map[string]bool{"": true, "lease": true}, strategies, "a request's is not its limit's")

	checks := 0
	for _, span := range spans.GetSpans() {
		if span.Name == "ratelimit.check" {
			checks++
			require.True(t, span.Parent.IsValid())
		}
	}
	require.Equal(t, 30, checks, "one a request")
	fmt.Fprintf(&exported, "%+v %+v", spans.GetSpans(), collected)
	for _, secret := range []string{user, address, network} {
		require.NotContains(t, exported.String(), secret)
	}
}
