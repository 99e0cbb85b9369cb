package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"nervous/app/servicetest/otlp"
)

// TestCorrelation walks the ways that Grafana offers: from an answer, a point of a graph and a line of the log to a
// trace, and from a trace to its lines of the log.
func TestCorrelation(t *testing.T) {
	t.Parallel()
	w := walk{fleet: startFleet(t, map[string]string{"RECONCILE_FLUSH_AGE": "100ms"}, "one", "two")}
	w.someWait()
	w.answers = append(w.answers, w.trending("one", "lease"), w.trending("two", "n_plus_one"),
		w.got(http.StatusAccepted, "two", http.MethodPost, "/payments/1/settled", ""),
		w.got(http.StatusNotFound, "one", http.MethodGet, "/nowhere", ""))
	w.continued = []continued{w.goOn("one", "00"), w.goOn("two", "01")}
	w.does("ALTER TABLE posts RENAME TO mislaid")
	w.does(`CREATE VIEW posts AS SELECT id, author_id, title, created_at + (1 / (id - id)) * interval '1 s' AS created_at
		FROM mislaid`)
	w.failed = w.got(http.StatusInternalServerError, "two", http.MethodGet, "/posts/trending?strategy=preload", "")
	w.answers = append(w.answers, w.failed)
	w.received.Until(t, "the event's flush", func() bool { return len(w.received.Spans("buffer.flush")) == 1 })
	w.end()
	w.traces = map[string][]otlp.Span{}
	for _, s := range w.received.Spans("") {
		w.traces[s.Trace] = append(w.traces[s.Trace], s)
	}

	t.Run("an answer names its trace", w.anAnswerNamesItsTrace)
	t.Run("a caller's trace goes on", w.aCallersTraceGoesOn)
	t.Run("a line of the log names its trace", w.aLineOfTheLogNamesItsTrace)
	t.Run("a point of a graph names a trace", w.aPointOfAGraphNamesATrace)
}

// walk is what replicas answered, and the traces that they exported.
type walk struct {
	*fleet
	answers   []answer
	continued []continued
	failed    answer
	traces    map[string][]otlp.Span
}

// continued is an answer to a caller who has a trace already.
type continued struct {
	answer
	trace, span string // the caller's
}

// someWait has each replica asked twice for what nobody can compute until all have asked.
func (w *walk) someWait() {
	w.t.Helper()
	release := w.hold("LOCK TABLE views IN ACCESS EXCLUSIVE MODE")
	var asking errgroup.Group
	answers := make(chan answer, 4)
	for _, replica := range []string{"one", "one", "two", "two"} {
		asking.Go(func() error {
			a, err := w.ask(replica, http.MethodGet, "/posts/trending", "")
			answers <- a
			return err
		})
	}
	w.received.Until(w.t, "three wait", func() bool {
		n := 0.
		for _, requests := range w.waiting() {
			n += requests
		}
		return n == 3
	})
	release()
	require.NoError(w.t, asking.Wait())
	close(answers)
	for a := range answers {
		w.answers = append(w.answers, a)
	}
}

// goOn asks as part of the caller's trace, whose flags say whether the caller has sampled it.
func (w *walk) goOn(replica, flags string) continued {
	w.t.Helper()
	id := make([]byte, 24)
	_, _ = rand.Read(id) // never fails
	c := continued{trace: hex.EncodeToString(id[:16]), span: hex.EncodeToString(id[16:])}
	var err error
	c.answer, err = w.ask(replica, http.MethodGet, "/posts/trending?strategy=preload", "",
		"traceparent", "00-"+c.trace+"-"+c.span+"-"+flags)
	require.NoError(w.t, err)
	require.Equal(w.t, http.StatusOK, c.status)
	return c
}

// find returns the one span of a trace of that name.
func (w *walk) find(t *testing.T, trace, name string) otlp.Span {
	t.Helper()
	var found []otlp.Span
	for _, s := range w.traces[trace] {
		if s.Name == name {
			found = append(found, s)
		}
	}
	require.Len(t, found, 1, "%s in %s", name, trace)
	return found[0]
}

// anAnswerNamesItsTrace in the header traceresponse, and an error in its body too.
func (w *walk) anAnswerNamesItsTrace(t *testing.T) {
	for _, a := range w.answers {
		i := slices.IndexFunc(w.traces[a.trace], func(s otlp.Span) bool { return s.ID == a.span })
		require.NotEqual(t, -1, i, "%s %s is not there", a.trace, a.span)
		s := w.traces[a.trace][i]
		require.Equal(t, []string{"server", a.replica, ""}, []string{s.Kind, s.Replica, s.Parent})
		require.Equal(t, "01", a.flags)
		if a.status >= http.StatusBadRequest {
			require.Equal(t, a.trace, a.body.TraceID)
		}
	}
}

// aCallersTraceGoesOn, and all that was done for it is in it, also where the caller has not sampled it.
func (w *walk) aCallersTraceGoesOn(t *testing.T) {
	for _, c := range w.continued {
		require.Equal(t, []string{c.trace, "01"}, []string{c.answer.trace, c.flags})
		request := w.find(t, c.trace, "GET /posts/trending")
		require.Equal(t, []string{c.answer.span, c.span, c.replica}, []string{request.ID, request.Parent, request.Replica})
		check := w.find(t, c.trace, "ratelimit.check")
		require.Equal(t, check.ID, w.find(t, c.trace, "EVALSHA").Parent)
		for _, call := range []string{"ratelimit.check", "TopPosts", "Authors"} {
			require.Equal(t, request.ID, w.find(t, c.trace, call).Parent)
		}
	}
}

// aLineOfTheLogNamesItsTrace, and its span, on standard error as over OTLP.
func (w *walk) aLineOfTheLogNamesItsTrace(t *testing.T) {
	const failed = "request failed"
	var exported []otlp.Log
	for _, record := range w.received.Logs() {
		if record.Body == failed {
			exported = append(exported, record)
			continue
		}
		require.Empty(t, record.Trace, "%s: there is no request", record.Body)
	}
	want := otlp.Log{Body: failed, Severity: "ERROR", Trace: w.failed.trace, Span: w.failed.span, Replica: "two"}
	require.Equal(t, []otlp.Log{want}, exported)

	var lines [][]string
	for line := range bytes.Lines(w.replicas["two"].stderr.Bytes()) {
		var record struct {
			Msg     string
			Level   string
			TraceID string `json:"trace_id"`
			SpanID  string `json:"span_id"`
		}
		require.NoError(t, json.Unmarshal(line, &record), "%s", line)
		if record.Msg == failed {
			lines = append(lines, []string{record.Level, record.TraceID, record.SpanID})
		}
	}
	require.Equal(t, [][]string{{want.Severity, want.Trace, want.Span}}, lines)
}

// aPointOfAGraphNamesATrace in which that was done which the graph is about.
func (w *walk) aPointOfAGraphNamesATrace(t *testing.T) {
	for _, graph := range []struct {
		metric string
		about  func(otlp.Point, otlp.Span) bool
	}{
		{"http.server.request.duration", func(p otlp.Point, s otlp.Span) bool {
			return s.Kind == "server" && s.Attributes["http.route"] == p.Attributes["http.route"]
		}},
		{"cache.lease.wait.duration", func(_ otlp.Point, s otlp.Span) bool { return s.Attributes["cache.result"] == "wait" }},
		{"buffer.flush.duration", func(p otlp.Point, s otlp.Span) bool {
			return s.Name == "buffer.flush" && s.Attributes["buffer.name"] == p.Attributes["buffer"]
		}},
		{"ratelimit.check.duration", func(p otlp.Point, s otlp.Span) bool {
			return s.Name == "ratelimit.check" && s.Attributes["ratelimit.source"] == p.Attributes["source"]
		}},
		{"db.client.operation.duration", func(p otlp.Point, s otlp.Span) bool {
			return s.Attributes["db.system.name"] == p.Attributes["db.system.name"] &&
				s.Attributes["db.query.summary"] == p.Attributes["db.query.summary"] &&
				s.Attributes["db.stored_procedure.name"] == p.Attributes["db.stored_procedure.name"]
		}},
	} {
		points := w.received.Points(graph.metric)
		require.NotEmpty(t, points, graph.metric)
		for _, p := range points {
			require.NotEmpty(t, p.Exemplars, "%s %v", p.Metric, p.Attributes)
			for _, trace := range p.Exemplars {
				require.True(t, slices.ContainsFunc(w.traces[trace], func(s otlp.Span) bool {
					return s.Replica == p.Replica && graph.about(p, s)
				}), "%s %v: %+v", p.Metric, p.Attributes, w.traces[trace])
			}
		}
	}
	for _, p := range w.received.Points("") {
		for _, trace := range p.Exemplars {
			require.Contains(t, w.traces, trace, "%s %v", p.Metric, p.Attributes)
		}
	}
}
