package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// How much of the traces is kept. A run of the load script makes some 30,000 spans; what is not interesting needs to
// stay only as long as a trace that links to it may still arrive, a few seconds.
const (
	keptSpans         = 20_000
	keptWaiters       = 20 // of each replica, and the traces that they link to
	keptSpansPerTrace = 500
)

// span is what is kept of a span: enough to draw it.
type span struct {
	trace, id, parent string // hexadecimal
	name              string
	replica           string // service.instance.id
	start, end        time.Time
	attributes        map[string]string // those with string values
	links             []link
}

type link struct{ trace, span, kind string }

// waits tells whether the span is a cache look-up that waited for another's work.
func (s *span) waits() bool { return s.name == "cache.get" && s.attributes["cache.result"] == "wait" }

// holder returns the link to the work that the span waited for.
func (s *span) holder() (link, bool) {
	for _, l := range s.links {
		if l.kind == "holder" {
			return l, true
		}
	}
	return link{}, false
}

// traceMemory counts every span that arrives and keeps the interesting traces: those in which a request waited, and
// those that it waited for. Everything else is forgotten, the oldest first, so that memory stays bounded however long
// the deployment runs.
type traceMemory struct {
	mu      sync.Mutex
	counted int64
	traces  map[string][]*span
	order   []string // of the traces that may be forgotten, oldest first
	held    int      // spans of those
	pinned  map[string]bool
	waiters map[string][]*span // by replica: a burst on one must not crowd out the others
	changed chan struct{}      // closed and replaced whenever spans arrive
	delays  *delays
}

func newTraceMemory() *traceMemory {
	return &traceMemory{traces: map[string][]*span{}, pinned: map[string]bool{}, waiters: map[string][]*span{},
		changed: make(chan struct{}), delays: newDelays()}
}

// add takes one export's spans.
func (m *traceMemory) add(resources []*tracepb.ResourceSpans) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, resource := range resources {
		replica := attributes(resource.GetResource().GetAttributes())["service.instance.id"]
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				m.keep(newSpan(replica, s))
			}
		}
	}
	m.forget()
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *traceMemory) keep(s *span) {
	m.counted++
	m.delays.see(s)
	spans, known := m.traces[s.trace]
	if len(spans) >= keptSpansPerTrace {
		return
	}
	m.traces[s.trace] = append(spans, s)
	if !m.pinned[s.trace] {
		m.held++
		if !known {
			m.order = append(m.order, s.trace)
		}
	}
	if holder, ok := s.holder(); ok && s.waits() && len(m.waiters[s.replica]) < keptWaiters {
		m.waiters[s.replica] = append(m.waiters[s.replica], s)
		m.pin(s.trace)
		m.pin(holder.trace)
	}
}

// pin keeps a trace for good, whatever of it has arrived yet.
func (m *traceMemory) pin(trace string) {
	if !m.pinned[trace] {
		m.pinned[trace] = true
		m.held -= len(m.traces[trace])
	}
}

func (m *traceMemory) forget() {
	for m.held > keptSpans {
		oldest := m.order[0]
		m.order = m.order[1:]
		if !m.pinned[oldest] {
			m.held -= len(m.traces[oldest])
			delete(m.traces, oldest)
		}
	}
}

// count returns how many spans arrived since the start.
func (m *traceMemory) count() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counted
}

// wait is one request that waited, with the trace of the work that it waited for.
type wait struct {
	waiter        *span
	holder        link
	waiters, work []*span // the two traces
}

// bestWait returns the wait that shows most: of those whose traces have both arrived, the latest across two replicas,
// or else on one. The channel is closed when more spans have arrived, for a caller that got none.
func (m *traceMemory) bestWait() (best wait, found bool, more <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	waiters := slices.Concat(slices.Collect(maps.Values(m.waiters))...)
	slices.SortFunc(waiters, func(a, b *span) int { return b.start.Compare(a.start) })
	for _, s := range waiters {
		holder, _ := s.holder()
		candidate := wait{s, holder, m.traces[s.trace], m.traces[holder.trace]}
		target := byID(candidate.work)[holder.span]
		if target == nil || !hasRoot(candidate.waiters) || !hasRoot(candidate.work) {
			continue
		}
		if target.replica != s.replica {
			return candidate, true, m.changed
		}
		if !found {
			best, found = candidate, true
		}
	}
	return best, found, m.changed
}

// story tells of one request that waited, and whose work it waited for. Spans travel for a moment after the answer, so
// it waits for them that long.
func (m *traceMemory) story(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		best, found, more := m.bestWait()
		if found {
			return best.String()
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Sprintf("No request's wait is known whole, of the %d spans that arrived.\n", m.count())
		}
	}
}

func byID(spans []*span) map[string]*span {
	index := make(map[string]*span, len(spans))
	for _, s := range spans {
		index[s.id] = s
	}
	return index
}

// hasRoot tells whether a trace is whole as far as one can know: nothing is missing between a span and the top. The
// top's own parent is the load script's, which sends no spans, so every trace has exactly one parent that is not there.
func hasRoot(spans []*span) bool {
	index, missing := byID(spans), map[string]bool{}
	for _, s := range spans {
		if index[s.parent] == nil {
			missing[s.parent] = true
		}
	}
	return len(missing) == 1
}

func newSpan(replica string, s *tracepb.Span) *span {
	kept := &span{
		trace: hex.EncodeToString(s.GetTraceId()), id: hex.EncodeToString(s.GetSpanId()),
		parent: hex.EncodeToString(s.GetParentSpanId()), name: s.GetName(), replica: replica,
		start:      time.Unix(0, int64(s.GetStartTimeUnixNano())), //nolint:gosec // nanoseconds fit until the year 2262
		end:        time.Unix(0, int64(s.GetEndTimeUnixNano())),   //nolint:gosec // as above
		attributes: attributes(s.GetAttributes()),
	}
	for _, l := range s.GetLinks() {
		kept.links = append(kept.links, link{
			hex.EncodeToString(l.GetTraceId()), hex.EncodeToString(l.GetSpanId()),
			attributes(l.GetAttributes())["link.kind"],
		})
	}
	return kept
}

func attributes(list []*commonpb.KeyValue) map[string]string {
	values := make(map[string]string, len(list))
	for _, kv := range list {
		if text, ok := kv.GetValue().GetValue().(*commonpb.AnyValue_StringValue); ok {
			values[kv.GetKey()] = text.StringValue
		}
	}
	return values
}
