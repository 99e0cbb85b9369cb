package deploy_test

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"time"

	tracesvc "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"nervous/app/cache"
	"nervous/app/ratelimit"
)

// span is one as the app makes it, with what happens within it. Unless it says more it takes a millisecond, is well and
// internal.
type span struct {
	name   string
	kind   tracepb.Span_SpanKind
	took   time.Duration
	failed bool
	has    attributes
	event  string
	within []span
}

type attributes map[string]any

const (
	serverKind = tracepb.Span_SPAN_KIND_SERVER
	clientKind = tracepb.Span_SPAN_KIND_CLIENT
)

// request is a request to a route, as otelhttp and the limit in front of every handler trace it.
func request(route string, status int, within ...span) span {
	return span{
		name: "GET " + route, kind: serverKind, failed: status >= 500, within: within,
		has: attributes{"http.route": route, "http.response.status_code": status},
	}
}

// check is the limit's decision.
func check(result string, degraded bool) span {
	return span{
		name: ratelimit.SpanCheck, has: attributes{"ratelimit.result": result, "ratelimit.degraded": degraded},
		within: []span{call("redis", "EVALSHA")},
	}
}

// admitted is a request that the limit let through.
func admitted(route string, status int, within ...span) span {
	return request(route, status, append([]span{check("allowed", false)}, within...)...)
}

// get is a look into shared memory.
func get(result cache.Result, within ...span) span {
	return span{
		name: cache.SpanGet, has: attributes{"cache.result": string(result)},
		within: append([]span{call("redis", "GET")}, within...),
	}
}

// call is a call to a store.
func call(system, name string) span {
	return span{name: name, kind: clientKind, has: attributes{"db.system.name": system}}
}

func repeat(s span, times int) (spans []span) {
	for range times {
		spans = append(spans, s)
	}
	return spans
}

// size is the number of spans.
func (s span) size() int {
	n := 1
	for _, w := range s.within {
		n += w.size()
	}
	return n
}

// names counts the spans by name, as often as given.
func (s span) names(times float64, into map[string]float64) {
	into[s.name] += times
	for _, w := range s.within {
		w.names(times, into)
	}
}

// writer writes spans as a replica exports them. Its ids are random and the same in each run, so that what is sampled
// by them is too.
type writer struct{ ids *rand.Rand }

func newWriter(seed string) writer {
	return writer{rand.New(rand.NewChaCha8(sha256.Sum256([]byte(seed))))}
}

func (w writer) id(size int) []byte {
	var id []byte
	for len(id) < size {
		id = binary.BigEndian.AppendUint64(id, w.ids.Uint64())
	}
	return id
}

// write returns the spans of a trace; the first is the root, or what takes its place where it has a parent elsewhere.
func (w writer) write(trace, parent []byte, s span) []*tracepb.Span {
	now, took := time.Now(), max(s.took, time.Millisecond)
	written := &tracepb.Span{
		TraceId: trace, SpanId: w.id(8), ParentSpanId: parent, Name: s.name, Kind: s.kind,
		StartTimeUnixNano: uint64(now.Add(-took).UnixNano()), //nolint:gosec // nanoseconds fit until the year 2262
		EndTimeUnixNano:   uint64(now.UnixNano()),            //nolint:gosec // as above
		Attributes:        pairs(s.has),
	}
	if written.Kind == 0 {
		written.Kind = tracepb.Span_SPAN_KIND_INTERNAL
	}
	if s.failed {
		written.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR}
	}
	if s.event != "" {
		written.Events = []*tracepb.Span_Event{{Name: s.event}}
	}
	spans := []*tracepb.Span{written}
	for _, inner := range s.within {
		spans = append(spans, w.write(trace, written.SpanId, inner)...)
	}
	return spans
}

// export is what a replica sends at once.
func export(spans []*tracepb.Span) *tracesvc.ExportTraceServiceRequest {
	return &tracesvc.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource: &resourcepb.Resource{Attributes: pairs(attributes{
			"service.name": "nervous", "service.instance.id": replica, "service.version": "v1.2.3",
		})},
		ScopeSpans: []*tracepb.ScopeSpans{{Spans: spans}},
	}}}
}

const replica = "app-1"

func pairs(values attributes) (list []*commonpb.KeyValue) {
	for key, value := range values {
		pair := &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{}}
		switch v := value.(type) {
		case string:
			pair.Value.Value = &commonpb.AnyValue_StringValue{StringValue: v}
		case int:
			pair.Value.Value = &commonpb.AnyValue_IntValue{IntValue: int64(v)}
		case bool:
			pair.Value.Value = &commonpb.AnyValue_BoolValue{BoolValue: v}
		}
		list = append(list, pair)
	}
	return list
}
