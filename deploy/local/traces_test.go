package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// replica is a real exporter of traces, as a replica of the app has one.
func replica(t *testing.T, name, receiver string, options ...otlptracehttp.Option) trace.Tracer {
	options = append(options, otlptracehttp.WithEndpointURL(receiver+"/v1/traces"))
	exporter, err := otlptracehttp.New(t.Context(), options...)
	require.NoError(t, err)
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.instance.id", name))))
	t.Cleanup(func() { require.NoError(t, provider.Shutdown(context.WithoutCancel(t.Context()))) })
	return provider.Tracer("test")
}

// request makes the spans of one request that looks up the cache, of which link is the holder's, if it waited.
func request(tracer trace.Tracer, result string, link ...trace.Link) (lookUp trace.SpanContext) {
	// k6 sends a traceparent and no spans.
	parent := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: newTraceID(), SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled, Remote: true,
	})
	ctx, server := tracer.Start(trace.ContextWithSpanContext(context.Background(), parent), "GET /posts/trending")
	_, get := tracer.Start(ctx, "cache.get", trace.WithLinks(link...))
	get.SetAttributes(attribute.String("cache.result", result))
	_, redis := tracer.Start(trace.ContextWithSpan(ctx, get), "GET",
		trace.WithAttributes(attribute.String("db.system.name", "redis")))
	redis.End()
	get.End()
	server.End()
	return get.SpanContext()
}

var lastTraceID [16]byte

func newTraceID() trace.TraceID {
	for i := range lastTraceID {
		if lastTraceID[i]++; lastTraceID[i] != 0 {
			break
		}
	}
	return lastTraceID
}

func holder(work trace.SpanContext) trace.Link {
	return trace.Link{SpanContext: work, Attributes: []attribute.KeyValue{attribute.String("link.kind", "holder")}}
}

func TestAWaitIsToldWithTheWorkItWaitedFor(t *testing.T) {
	memory := newTraceMemory()
	receiver := httptest.NewServer(&traceReceiver{memory: memory})
	defer receiver.Close()
	one := replica(t, "app-1", receiver.URL)
	two := replica(t, "app-2", receiver.URL, otlptracehttp.WithCompression(otlptracehttp.GzipCompression))

	request(one, "hit")
	_, found, _ := memory.bestWait()
	require.False(t, found)
	require.EqualValues(t, 3, memory.count())

	work := request(one, "miss")
	request(one, "wait", holder(work))
	best, found, _ := memory.bestWait()
	require.True(t, found)
	require.Equal(t, "app-1", best.waiter.replica, "a wait on one replica is better than none")

	waited := request(two, "wait", holder(work))
	best, found, _ = memory.bestWait()
	require.True(t, found)
	require.Equal(t, "app-2", best.waiter.replica, "a wait across replicas shows more")
	require.Equal(t, waited.SpanID().String(), best.waiter.id)
	require.Equal(t, work.SpanID().String(), best.holder.span)
	require.Len(t, best.work, 3)
}

func TestAnUnfinishedTraceIsNotShown(t *testing.T) {
	memory := newTraceMemory()
	receiver := httptest.NewServer(&traceReceiver{memory: memory})
	defer receiver.Close()
	one := replica(t, "app-1", receiver.URL)

	unknown := trace.NewSpanContext(trace.SpanContextConfig{TraceID: newTraceID(), SpanID: trace.SpanID{2}})
	request(one, "wait", holder(unknown))
	_, found, more := memory.bestWait()
	require.False(t, found, "the work has not arrived")

	select {
	case <-more:
		require.Fail(t, "nothing new has arrived")
	default:
	}
	request(one, "hit")
	<-more
}

func TestMemoryIsBounded(t *testing.T) {
	memory := newTraceMemory()
	memory.keep(&span{trace: "work", id: "w"})
	memory.keep(&span{
		trace: "waiter", id: "x", name: "cache.get", attributes: map[string]string{"cache.result": "wait"},
		links: []link{{"work", "w", "holder"}},
	})
	for range 3 * keptSpans {
		memory.keep(&span{trace: newTraceID().String()})
		memory.forget()
	}
	require.EqualValues(t, 2+3*keptSpans, memory.count())
	require.Len(t, memory.traces, 2+keptSpans)
	require.Len(t, memory.order, keptSpans)
	require.Len(t, memory.traces["work"], 1, "what a waiter waited for is kept")
	require.Len(t, memory.traces["waiter"], 1)

	for range 2 * keptSpansPerTrace {
		memory.keep(&span{trace: "endless"})
	}
	require.Len(t, memory.traces["endless"], keptSpansPerTrace)
}

func TestTheCollectorGetsEveryExportUnchanged(t *testing.T) {
	collected := newTraceMemory()
	collector := httptest.NewServer(&traceReceiver{memory: collected})
	defer collector.Close()
	memory := newTraceMemory()
	receiver := httptest.NewServer(&traceReceiver{memory: memory, forward: collector.URL + "/v1/traces"})
	defer receiver.Close()

	request(replica(t, "app-1", receiver.URL, otlptracehttp.WithCompression(otlptracehttp.GzipCompression)), "hit")
	require.EqualValues(t, 3, memory.count())
	require.EqualValues(t, 3, collected.count())
	collector.Close()
	request(replica(t, "app-2", receiver.URL), "hit") // its exporter would report an error
	require.EqualValues(t, 6, memory.count())
}

func TestTheReceiverRefusesWhatIsNotOTLP(t *testing.T) {
	receiver := httptest.NewServer(&traceReceiver{memory: newTraceMemory()})
	defer receiver.Close()
	for path, want := range map[string]int{"/v1/traces": http.StatusBadRequest, "/v1/logs": http.StatusNotFound} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, receiver.URL+path, http.NoBody)
		require.NoError(t, err)
		req.Header.Set("Content-Encoding", "br")
		answer, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		answer.Body.Close()
		require.Equal(t, want, answer.StatusCode)
	}
}

func TestAWaitIsDrawn(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	get := &span{
		trace: "aaaa", id: "2", parent: "1", name: "cache.get", replica: "app-2", start: at(1), end: at(1201),
		attributes: map[string]string{"cache.result": "wait"}, links: []link{{"bbbb", "12", "holder"}},
	}
	redis := map[string]string{"db.system.name": "redis"}
	script := map[string]string{"db.system.name": "redis", "db.stored_procedure.name": "cache.lease"}
	w := wait{
		waiter: get, holder: get.links[0],
		waiters: []*span{
			{id: "5", parent: "2", name: "EVALSHA", start: at(500), end: at(502), attributes: script},
			{id: "4", parent: "2", name: "EVALSHA", start: at(3), end: at(4), attributes: script},
			get,
			{id: "3", parent: "2", name: "GET", start: at(1), end: at(2), attributes: redis},
			{id: "1", parent: "k6", name: "GET /posts/trending", replica: "app-2", start: at(0), end: at(1202)},
		},
		work: []*span{
			{id: "11", parent: "k6", name: "GET /posts/trending", replica: "app-1", start: at(0), end: at(1200)},
			{id: "12", parent: "11", name: "cache.fill", replica: "app-1", start: at(2), end: at(1199)},
		},
	}
	require.Equal(t, `This request, on app-2, found nothing in Redis and somebody already at work on it:

  trace aaaa
  GET /posts/trending                  1202.0 ms
  └─ cache.get (wait)                  1200.0 ms  <- waited; its link leads to the span marked below
     ├─ GET [redis]                       1.0 ms
     └─ EVALSHA cache.lease [redis]       1.0 ms  and 1 more like it

Its link says whose answer it waited for: this request's, on app-1.

  trace bbbb
  GET /posts/trending    1200.0 ms
  └─ cache.fill          1197.0 ms  <- the link leads here
`, w.String())
}
