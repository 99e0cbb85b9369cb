package deploy_test

import (
	"encoding/hex"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"nervous/app/buffer"
	"nervous/app/cache"
	"nervous/app/ratelimit"
	"nervous/app/reconcile"
	"nervous/app/servicetest/otlp"
)

// sample is a kind of trace: how many of it are sent, how many of those must be kept, and by which policy.
type sample struct {
	what   string
	trace  span
	sent   int
	kept   atLeastAtMost
	by     string
	parent parentage
}

// parentage is where a request comes from: from somebody who does not trace, from another service, or from k6, which
// only draws the span that it says it comes from.
type parentage int

const (
	none parentage = iota
	elsewhere
	drawn
)

type atLeastAtMost [2]int

// The shares are of ids drawn at random; their spread is three standard deviations.
var (
	all          = func(n int) atLeastAtMost { return atLeastAtMost{n, n} }
	oneInTwenty  = atLeastAtMost{29, 71} // of 1,000
	oneInHundred = atLeastAtMost{7, 33}  // of 2,000
)

const (
	trendingRoute = "/posts/trending"
	settledRoute  = "/payments/:id/settled"
)

// What the app emits, by what becomes of it. Shares want many of a kind; of the rest a few are enough.
var samples = []sample{
	{what: "a hit", trace: admitted(trendingRoute, 200, get(cache.ResultHit)), sent: 1000, kept: oneInTwenty,
		by: "requests"},
	{what: "a hit of k6, which draws a parent",
		trace: sentBy("k6/1.8.1 (https://k6.io/)", admitted(trendingRoute, 200, get(cache.ResultHit))),
		sent:  1000, kept: oneInTwenty, by: "requests", parent: drawn},
	{what: "a hit that is slow", trace: lasting(250*time.Millisecond, admitted(trendingRoute, 200, get(cache.ResultHit))),
		sent: 5, kept: all(5), by: "slow"},
	{what: "a hit that causes an early refresh",
		trace: admitted(trendingRoute, 200, happening("refresh.early", get(cache.ResultHit))), sent: 5, kept: all(5),
		by: "fills"},

	{what: "a waiter", trace: admitted(trendingRoute, 200, get(cache.ResultWait)), sent: 5, kept: all(5),
		by: "contended"},
	{what: "a waiter that another service asks for",
		trace: sentBy("Go-http-client/1.1", admitted(trendingRoute, 200, get(cache.ResultWait))),
		sent:  5, kept: all(5), by: "contended", parent: elsewhere},
	{what: "a stale answer", trace: admitted(trendingRoute, 200, get(cache.ResultStale)), sent: 5, kept: all(5),
		by: "contended"},
	{what: "an answer without Redis", trace: admitted(trendingRoute, 200, get(cache.ResultBypass)), sent: 5, kept: all(5),
		by: "contended"},
	{what: "no answer", trace: admitted(trendingRoute, 200, get(cache.ResultError)), sent: 5, kept: all(5),
		by: "contended"},
	{what: "a wait for a connection", trace: admitted(trendingRoute, 200, call("postgresql", "ACQUIRE")), sent: 5,
		kept: all(5), by: "contended"},
	{what: "a fill", trace: admitted(trendingRoute, 200, get(cache.ResultMiss, fill())), sent: 5, kept: all(5),
		by: "fills"},
	{what: "an early refresh", trace: span{name: cache.SpanRefresh, within: []span{fill()}}, sent: 5, kept: all(5),
		by: "fills"},

	{what: "a failing request", trace: admitted(trendingRoute, 503), sent: 5, kept: all(5), by: "errors"},
	{what: "a failing call", trace: admitted(trendingRoute, 200, failing(call("redis", "GET"))), sent: 5, kept: all(5),
		by: "errors"},
	{what: "a failing dial", trace: failing(call("redis", "redis.dial")), sent: 5, kept: all(5), by: "errors"},
	{what: "a failing heartbeat", trace: failing(heartbeat), sent: 5, kept: all(5), by: "errors"},

	{what: "a denial", trace: request(trendingRoute, 429, check("denied", false)), sent: 2000, kept: oneInHundred,
		by: "anything"},
	{what: "an admission without Redis", trace: request(trendingRoute, 200, check("allowed", true)), sent: 5,
		kept: all(5), by: "degraded"},
	{what: "a denial without Redis", trace: request(trendingRoute, 429, check("denied", true)), sent: 5, kept: all(5),
		by: "degraded"},

	{what: "an event", trace: admitted(settledRoute, 202, call("redis", "EVALSHA")), sent: 200, kept: all(200),
		by: "events"},
	{what: "an event that is denied", trace: request(settledRoute, 429, check("denied", false)), sent: 2000,
		kept: oneInHundred, by: "anything"},
	{what: "a flush", trace: span{name: buffer.SpanFlush, within: []span{call("redis", "SSCAN")}}, sent: 5, kept: all(5),
		by: "runs"},
	{what: "who asks for a run", trace: admitted("/reconcile", 202, call("postgresql", "InsertJob")), sent: 5,
		kept: all(5), by: "runs"},
	{what: "who asks for a run too often", trace: request("/reconcile", 429, check("denied", false)), sent: 2000,
		kept: oneInHundred, by: "anything"},
	{what: "a run", trace: span{name: reconcile.SpanJob, has: attributes{"reconcile.attempt": 1}}, sent: 5, kept: all(5),
		by: "runs"},
	{what: "a run that is taken over", trace: span{name: reconcile.SpanJob, has: attributes{"reconcile.attempt": 2}},
		sent: 5, kept: all(5), by: "runs"},
	{what: "a helper of a run", trace: span{name: reconcile.SpanHelp}, sent: 5, kept: all(5), by: "runs"},
	{what: "a page", trace: page(reconcile.Buffered, 3), sent: 25, kept: all(25), by: "runs"},
	{what: "a page of a loop", trace: page(reconcile.NPlusOne, 3800), sent: 3, kept: all(2), by: "loops"},
	{what: "a page of a loop that fails", trace: failing(page(reconcile.BatchedReads, 3)), sent: 3, kept: all(3),
		by: "errors"},

	{what: "a heartbeat", trace: heartbeat, sent: 2000, kept: oneInHundred, by: "anything"},
	{what: "a subscription", trace: call("redis", "SUBSCRIBE"), sent: 2000, kept: oneInHundred, by: "anything"},
	{what: "a ping", trace: call("redis", "PING"), sent: 2000, kept: oneInHundred, by: "anything"},
	{what: "a dial", trace: call("redis", "redis.dial"), sent: 2000, kept: oneInHundred, by: "anything"},
	{what: "a look for work", trace: call("postgresql", "SELECT"), sent: 2000, kept: oneInHundred, by: "anything"},
}

var heartbeat = span{name: ratelimit.SpanHeartbeat, within: []span{call("redis", "EVALSHA")}}

func fill() span { return span{name: cache.SpanFill, within: []span{call("postgresql", "TopPosts")}} }

func page(by reconcile.Strategy, calls int) span {
	return span{
		name: reconcile.SpanPage, has: attributes{"reconcile.strategy": string(by)},
		within: repeat(call("postgresql", "Update"), calls),
	}
}

func failing(s span) span {
	s.failed = true
	return s
}

func lasting(took time.Duration, s span) span {
	s.took = took
	return s
}

func happening(event string, s span) span {
	s.event = event
	return s
}

func sentBy(agent string, s span) span {
	s.has["user_agent.original"] = agent
	return s
}

// The metrics of the collector that tell what was thinned out.
const (
	measured = "traces.span.metrics.calls"
	keptOnes = "traces.span.kept.calls"
	decided  = "otelcol_processor_tail_sampling_global_count_traces_sampled"
	byPolicy = "otelcol_processor_tail_sampling_count_traces_sampled"
	late     = "otelcol_processor_tail_sampling_early_releases_from_cache_decision"
	lost     = "otelcol_exporter_enqueue_failed_spans"
)

// The whole table goes through the collector, as a replica would send it: what is within a span earlier than the span.
// Run it where there is one; deploy/local/test does.
//
//	OTELCOL=$(which otelcol-contrib) go test -count=1 -run TestCollector ./deploy
func TestCollectorKeepsWhatIsWorthReading(t *testing.T) {
	t.Parallel()
	out := otlp.Receive(t)
	c := startCollector(t, out, startTempo(t, out))

	traces := map[string]int{} // by id: which sample it is of
	var roots, others []*tracepb.Span
	sentSpans := map[string]float64{}
	for i, s := range samples {
		s.trace.names(float64(s.sent), sentSpans)
		write := newWriter(s.what)
		for range s.sent {
			id, parent := write.id(16), []byte(nil)
			if s.parent != none {
				parent = write.id(8)
			}
			traces[hex.EncodeToString(id)] = i
			spans := write.write(id, parent, s.trace)
			roots, others = append(roots, spans[0]), append(others, spans[1:]...)
		}
	}
	for batch := range slices.Chunk(append(others, roots...), 2048) {
		c.send(t, export(batch))
	}

	// Every trace is decided, every span is measured, and what is kept has arrived. Meanwhile each export of metrics has
	// the exemplars of its own interval.
	exemplars := map[string][]string{}
	var arrived, arrivedSpans map[string]float64
	out.Until(t, "decisions, and the spans that they keep", func() bool {
		for _, metric := range []string{"traces.span.metrics.duration", "traces.span.kept.duration"} {
			for _, p := range out.Points(metric) {
				exemplars[metric] = append(exemplars[metric], p.Exemplars...)
			}
		}
		if sum(out.Points(decided), nil) < float64(len(traces)) ||
			sum(out.Points(measured), nil) < float64(len(roots)+len(others)) ||
			sum(out.Points(keptOnes), nil) != float64(len(out.Spans(""))) {
			return false
		}
		arrived, arrivedSpans = countSpans(out.Spans(""))
		return sum(out.Points(decided), attributes{"decision": "sampled"}) == float64(len(arrived))
	})

	kept := make([]int, len(samples))
	for id, spans := range arrived {
		i, known := traces[id]
		require.True(t, known, "a trace that nobody sent")
		assert.InDelta(t, samples[i].trace.size(), spans, 0, "%s: a trace arrives whole", samples[i].what)
		kept[i]++
	}
	for i, s := range samples {
		assert.GreaterOrEqual(t, kept[i], s.kept[0], "%s: kept of %d", s.what, s.sent)
		assert.LessOrEqual(t, kept[i], s.kept[1], "%s: kept of %d", s.what, s.sent)
	}

	for _, s := range out.Spans("GET " + trendingRoute) {
		of := samples[traces[s.Trace]]
		assert.Equal(t, of.parent == elsewhere, s.Parent != "", "%s: whether it has a parent", of.what)
	}

	assert.Equal(t, sentSpans, byName(out.Points(measured)), "measured before anything is thinned out")
	assert.Equal(t, arrivedSpans, byName(out.Points(keptOnes)), "and after")
	assert.InDelta(t, len(traces)-len(arrived), sum(out.Points(decided), attributes{"sampled": "false"}), 0,
		"what was thinned out is counted")
	for _, s := range samples {
		decision := "sampled"
		if s.by == "loops" {
			decision = "dropped"
		}
		assert.Positive(t, sum(out.Points(byPolicy), attributes{"policy": s.by, "decision": decision}), s.by)
	}

	assert.Empty(t, exemplars["traces.span.metrics.duration"], "most of them would lead to a trace that is gone")
	assert.NotEmpty(t, exemplars["traces.span.kept.duration"])
	for _, id := range exemplars["traces.span.kept.duration"] {
		assert.Contains(t, arrived, id, "an exemplar leads to a trace that is there")
	}

	require.NotEmpty(t, c.metrics.spansFrom())
	for _, origin := range c.metrics.spansFrom() {
		assert.Equal(t, map[string]string{"service.name": "nervous", "service.instance.id": replica}, origin,
			"more would become a target_info that outlives the replica")
	}

	t.Run("a late span follows its trace", func(t *testing.T) {
		isKept, isThinned := "", ""
		for id := range traces {
			if arrived[id] > 0 {
				isKept = id
			} else {
				isThinned = id
			}
		}
		for _, of := range []string{isKept, isThinned} {
			id, err := hex.DecodeString(of)
			require.NoError(t, err)
			write := newWriter("late")
			c.send(t, export(write.write(id, write.id(8), span{name: "late"})))
		}
		out.Until(t, "the late spans' fate", func() bool {
			return sum(out.Points(late), nil) == 2 && len(out.Spans("late")) == 1
		})
		assert.Equal(t, isKept, out.Spans("late")[0].Trace)
	})
}

// Tempo may be away for as long as it likes: the collector keeps what it has room for, says how much it loses, and goes
// on with everything else.
func TestCollectorOutlivesTempo(t *testing.T) {
	t.Parallel()
	out := otlp.Receive(t)
	c := startCollector(t, out, freeAddress(t))

	// More than the queue holds, in fewer traces than may wait for their decision.
	const traces = 25_000
	failed := admitted(trendingRoute, 503)
	sent, write := float64(traces*failed.size()), newWriter("lost")
	for batch := range slices.Chunk(repeat(failed, traces), 500) {
		var spans []*tracepb.Span
		for _, s := range batch {
			spans = append(spans, write.write(write.id(16), nil, s)...)
		}
		c.send(t, export(spans))
	}

	tempo := attributes{"exporter": "otlp_grpc/tempo"}
	out.Until(t, "every span is either waiting or lost", func() bool {
		waiting := attributes{"exporter": "otlp_grpc/tempo", "data_type": "traces"}
		return sum(out.Points("otelcol_exporter_queue_size"), waiting)+sum(out.Points(lost), tempo) == sent
	})
	assert.Positive(t, sum(out.Points(lost), tempo), "a queue that has no end is a memory that has none")
	assert.Zero(t, sum(out.Points("otelcol_receiver_refused_spans"), nil), "the app is not to feel it")
	memory := sum(out.Points("otelcol_process_memory_rss"), nil)
	assert.Positive(t, memory)
	assert.Less(t, memory/1024/1024, mebibytes(t, deployedCollector(t).MemLimit), "MiB")
}

// Names are bounded by the code that gives them, until somebody writes an id into one. Then Prometheus must not pay.
func TestCollectorBoundsItsSeries(t *testing.T) {
	t.Parallel()
	out := otlp.Receive(t)
	c := startCollector(t, out, startTempo(t, out))

	const names = 1000
	write, spans := newWriter("names"), []*tracepb.Span{}
	for i := range names {
		spans = append(spans, write.write(write.id(16), nil, call("redis", fmt.Sprint("GET ", i)))...)
	}
	c.send(t, export(spans))

	out.Until(t, "every span is counted", func() bool { return sum(out.Points(measured), nil) == names })
	assert.LessOrEqual(t, len(out.Points(measured)), 301, "the limit, and one series for the rest")
	assert.Positive(t, sum(out.Points(measured), attributes{"otel.metric.overflow": "true"}))
}

// sum adds up the series that have the attributes.
func sum(points []otlp.Point, has attributes) (total float64) {
	for _, p := range points {
		matches := true
		for key, value := range has {
			matches = matches && p.Attributes[key] == value
		}
		if matches {
			total += p.Value
		}
	}
	return total
}

// countSpans counts by trace and by name.
func countSpans(spans []otlp.Span) (byTrace, byName map[string]float64) {
	byTrace, byName = map[string]float64{}, map[string]float64{}
	for _, s := range spans {
		byTrace[s.Trace]++
		byName[s.Name]++
	}
	return byTrace, byName
}

func byName(points []otlp.Point) map[string]float64 {
	total := map[string]float64{}
	for _, p := range points {
		total[p.Attributes["span.name"]] += p.Value
	}
	return total
}

// A policy that the table does not know is one that nobody has seen at work.
func TestPoliciesAreAllTested(t *testing.T) {
	t.Parallel()
	var config struct {
		Processors struct {
			TailSampling struct {
				Policies []struct{ Name string }
			} `yaml:"tail_sampling"`
		}
	}
	parse(t, "otel-collector.yaml", &config)
	require.NotEmpty(t, config.Processors.TailSampling.Policies)
	for _, policy := range config.Processors.TailSampling.Policies {
		require.True(t, slices.ContainsFunc(samples, func(s sample) bool { return s.by == policy.Name }), policy.Name)
	}
}
