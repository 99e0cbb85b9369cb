package telemetry

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/semconv/v1.43.0/otelconv"
)

// Back-pressure never reaches a request: with a collector that takes nothing, spans end as ever. What the queue cannot
// hold is dropped and counted, to the last one.
func TestACollectorThatHangsHoldsNobodyUp(t *testing.T) {
	l := lossOf(t, hang(t), queueSize, batchSize)
	l.make(t.Context(), 100_000, 0) // were a span to wait for the collector, this would not return
	require.EqualValues(t, 100_000, l.counting.ended.Load())
	require.Zero(t, l.exported.spans.Load())
	require.EqualValues(t, 100_000, l.lost(t)+l.waiting(t))
	require.LessOrEqual(t, l.waiting(t), int64(queueSize+batchSize), "the queue, and the batch that is under way")
}

// So it is with a collector that is not there. Its refusals come at once, so that spans are lost on their way and not
// in front of a queue.
func TestACollectorThatIsNotThereHoldsNobodyUp(t *testing.T) {
	earlier := otel.GetErrorHandler()
	t.Cleanup(func() { otel.SetErrorHandler(earlier) })
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
	l := lossOf(t, nowhere(t), queueSize, batchSize)
	l.make(t.Context(), 100_000, 0)
	require.Error(t, l.tracer.ForceFlush(t.Context()))
	require.EqualValues(t, 100_000, l.lost(t))
	require.Zero(t, l.exported.spans.Load())
}

// Nor does a look at the ledger that has less patience than the collector needs.
func TestALookLosesNothing(t *testing.T) {
	collector, answer := hold(t)
	l := lossOf(t, collector, queueSize, batchSize)
	l.make(t.Context(), 1000, 0)
	var b books
	b.opened("one", l.counting, l.exported, l.tracer.ForceFlush)

	patience, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.Equal(t, Spans{Ended: 1000}, b.read(patience).Spans)
	answer()
	require.Equal(t, Spans{Ended: 1000, Exported: 1000}, b.read(t.Context()).Spans)
}

// hang is the address of a collector that accepts and never answers.
func hang(t *testing.T) string {
	address, _ := hold(t)
	return address
}

// hold is the address of a collector that answers once it may.
func hold(t *testing.T) (address string, answer func()) {
	held := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-held }))
	t.Cleanup(server.Close)
	answer = sync.OnceFunc(func() { close(held) })
	t.Cleanup(answer)
	return server.URL, answer
}

func nowhere(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return "http://" + listener.Addr().String()
}

// loss is a pipeline as Start builds it, with what the SDK says of itself.
type loss struct {
	tracer   *sdktrace.TracerProvider
	counting *spanCounter
	exported *countingExporter
	reader   *sdkmetric.ManualReader
}

func lossOf(t testing.TB, endpoint string, queue, batch int) loss {
	t.Setenv("OTEL_GO_X_OBSERVABILITY", "true")
	reader := sdkmetric.NewManualReader()
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	earlier := otel.GetMeterProvider()
	t.Cleanup(func() { otel.SetMeterProvider(earlier) })
	otel.SetMeterProvider(meters) // where the SDK counts
	counting, err := newSpanCounter(meters)
	require.NoError(t, err)
	exporter, err := otlptracehttp.New(t.Context(), otlptracehttp.WithEndpointURL(endpoint+"/v1/traces"))
	require.NoError(t, err)
	exported := &countingExporter{SpanExporter: exporter}
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(counting),
		sdktrace.WithBatcher(exported, sdktrace.WithMaxQueueSize(queue), sdktrace.WithMaxExportBatchSize(batch)))
	t.Cleanup(func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Second)
		defer cancel()
		_ = tracers.Shutdown(bounded)
	})
	return loss{tracers, counting, exported, reader}
}

// lost is how many spans found the queue full, or were sent in vain, by the SDK's own count.
func (l loss) lost(t testing.TB) int64 {
	t.Helper()
	failed := func(of attribute.Set) bool { return of.HasValue("error.type") }
	return l.sum(t, otelconv.SDKProcessorSpanProcessed{}.Name(), failed) +
		l.sum(t, otelconv.SDKExporterSpanExported{}.Name(), failed)
}

// waiting is how many are in the queue, or on their way.
func (l loss) waiting(t testing.TB) int64 {
	t.Helper()
	all := func(attribute.Set) bool { return true }
	return l.sum(t, otelconv.SDKProcessorSpanQueueSize{}.Name(), all) +
		l.sum(t, otelconv.SDKExporterSpanInflight{}.Name(), all)
}

func (l loss) sum(t testing.TB, name string, of func(attribute.Set) bool) (n int64) {
	t.Helper()
	var collected metricdata.ResourceMetrics
	require.NoError(t, l.reader.Collect(context.WithoutCancel(t.Context()), &collected))
	for _, scope := range collected.ScopeMetrics {
		for _, m := range scope.Metrics {
			sum, isSum := m.Data.(metricdata.Sum[int64])
			if !isSum || m.Name != name {
				continue
			}
			for _, p := range sum.DataPoints {
				if of(p.Attributes) {
					n += p.Value
				}
			}
		}
	}
	return n
}

// BenchmarkSpansLost is how the sizes in Start were chosen: what share of a burst of 20,000 spans, and of 20,000 a
// second for three seconds, is lost to a collector that takes so long to answer.
//
//	go test -run '^$' -bench SpansLost -benchtime 1x ./app/telemetry
func BenchmarkSpansLost(b *testing.B) {
	for _, delay := range []time.Duration{5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond} {
		for _, size := range []struct{ queue, batch int }{{2048, 512}, {queueSize, batchSize}} {
			b.Run(fmt.Sprintf("%v/queue=%d", delay, size.queue), func(b *testing.B) {
				collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					time.Sleep(delay) //nolint:forbidigo // it is what is measured
				}))
				defer collector.Close()
				for b.Loop() {
					for shape, pause := range map[string]time.Duration{"burst": 0, "sustained": 50 * time.Millisecond} {
						l := lossOf(b, collector.URL, size.queue, size.batch)
						made := 20_000
						if pause > 0 {
							made = 60_000
						}
						l.make(b.Context(), made, pause)
						b.ReportMetric(100*float64(l.lost(b))/float64(made), shape+"-lost-%")
					}
				}
			})
		}
	}
}

// make ends spans in eight goroutines, as requests would: at once, or a thousand a pause.
func (l loss) make(ctx context.Context, spans int, pause time.Duration) {
	tracer := l.tracer.Tracer("test")
	for range spans / 1000 {
		begun := time.Now()
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				for range 125 {
					_, span := tracer.Start(ctx, "request")
					span.End()
				}
			})
		}
		group.Wait()
		time.Sleep(pause - time.Since(begun)) //nolint:forbidigo // the rate is what is measured
	}
}
