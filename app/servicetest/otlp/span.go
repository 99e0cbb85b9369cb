package otlp

import (
	"encoding/hex"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
)

// Span is one as it arrived. Ids are in hexadecimal; Parent is empty for a root.
type Span struct {
	Trace, ID, Parent string
	// Kind is server, client or internal; Scope the instrumentation that made it; Replica service.instance.id.
	Name, Kind, Scope, Replica string
	Start, End                 time.Time
	// Error is the status's description, or its code where it has none; empty where the status is not an error.
	Error      string
	Attributes map[string]string
	Links      []Link
	Events     []string // their names
}

// Link leads to a span; Kind is its attribute link.kind.
type Link struct{ Trace, Span, Kind string }

// Log is a record as it arrived; Trace and Span are empty outside a request.
type Log struct{ Body, Severity, Trace, Span, Replica string }

var kinds = map[trace.Span_SpanKind]string{
	trace.Span_SPAN_KIND_INTERNAL: "internal", trace.Span_SPAN_KIND_SERVER: "server",
	trace.Span_SPAN_KIND_CLIENT: "client",
}

func readSpans(from *trace.ResourceSpans) (spans []Span) {
	for _, scope := range from.GetScopeSpans() {
		for _, s := range scope.GetSpans() {
			spans = append(spans, Span{
				Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()),
				Parent: hex.EncodeToString(s.GetParentSpanId()), Name: s.GetName(), Kind: kinds[s.GetKind()],
				Scope: scope.GetScope().GetName(), Replica: instance(from.GetResource()),
				Start:      time.Unix(0, int64(s.GetStartTimeUnixNano())), //nolint:gosec // nanoseconds fit until the year 2262
				End:        time.Unix(0, int64(s.GetEndTimeUnixNano())),   //nolint:gosec // as above
				Error:      fault(s.GetStatus()),
				Attributes: attributes(s.GetAttributes()), Links: readLinks(s), Events: readEvents(s),
			})
		}
	}
	return spans
}

func fault(status *trace.Status) string {
	switch {
	case status.GetCode() != trace.Status_STATUS_CODE_ERROR:
		return ""
	case status.GetMessage() == "":
		return "ERROR"
	}
	return status.GetMessage()
}

func readLinks(s *trace.Span) (links []Link) {
	for _, l := range s.GetLinks() {
		links = append(links, Link{
			Trace: hex.EncodeToString(l.GetTraceId()), Span: hex.EncodeToString(l.GetSpanId()),
			Kind: attributes(l.GetAttributes())["link.kind"],
		})
	}
	return links
}

func readEvents(s *trace.Span) (names []string) {
	for _, e := range s.GetEvents() {
		names = append(names, e.GetName())
	}
	return names
}

func instance(r *resource.Resource) string {
	return attributes(r.GetAttributes())["service.instance.id"]
}

// attributes writes every value as text.
func attributes(list []*common.KeyValue) map[string]string {
	values := make(map[string]string, len(list))
	for _, kv := range list {
		values[kv.GetKey()] = text(kv.GetValue())
	}
	return values
}
