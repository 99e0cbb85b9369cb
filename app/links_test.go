package main

import (
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"nervous/app/servicetest/otlp"
)

// TestLinks has three replicas do everything that links tell of, as users do, one of them to its violent end. Then it
// reads all that they exported.
func TestLinks(t *testing.T) {
	t.Parallel()
	l := load{
		fleet: startFleet(t, map[string]string{
			"TRENDING_TTL": "3s", "TRENDING_TTL_JITTER": "0", "RECONCILE_FLUSH_AGE": "100ms",
			"RATELIMIT_RUNS_LIMIT": "5", "RATELIMIT_RUNS_WINDOW": "1h",
		}, "one", "two", "three"),
		lists: map[string]answer{}, events: map[string]answer{}, runs: map[string]jobRun{},
	}
	l.coldBurst()
	l.expiry()
	l.withoutProtection()
	l.liveEvents()
	for _, strategy := range []string{"n_plus_one", "batched_reads", "buffered", "single_statement"} {
		l.run(strategy)
	}
	l.takeover()
	l.denial()
	l.end()

	e := readExport(l)
	t.Run("every link leads to the right span", e.everyLinkLeadsToTheRightSpan)
	t.Run("no link is missing", e.noLinkIsMissing)
	t.Run("a denial leads nowhere", e.aDenialLeadsNowhere)
	t.Run("every call has a parent", e.everyCallHasAParent)
}

// load is what the test does, and what it was answered: that says, apart from links, what belongs together.
type load struct {
	*fleet
	lists  map[string]answer // by trace
	events map[string]answer // by span
	runs   map[string]jobRun // by the trace of the first who worked on it
	denied answer
	killed string
}

// jobRun is a run of the job: who asked for it, and where it ended.
type jobRun struct{ asked, over answer }

// list asks for the list, and remembers the answer.
func (l *load) list(replica, strategy string) answer {
	l.t.Helper()
	a := l.trending(replica, strategy)
	l.lists[a.trace] = a
	return a
}

// coldBurst has four requests a replica miss the same value, which nobody can compute until all are there.
func (l *load) coldBurst() {
	l.t.Helper()
	release := l.hold("LOCK TABLE views IN ACCESS EXCLUSIVE MODE")
	const each = 4
	var asking errgroup.Group
	answers := make(chan answer, each*len(l.replicas))
	for replica := range l.replicas {
		for range each {
			asking.Go(func() error {
				a, err := l.ask(replica, http.MethodGet, "/posts/trending", "")
				answers <- a
				return err
			})
		}
	}
	l.received.Until(l.t, "everybody waits for one", func() bool {
		waiting := slices.Collect(maps.Values(l.waiting()))
		return len(waiting) == 1 && waiting[0] == float64(cap(answers)-1)
	})
	release()
	require.NoError(l.t, asking.Wait())
	close(answers)
	results := map[string]int{}
	for a := range answers {
		l.lists[a.trace] = a
		results[a.result]++
	}
	require.Equal(l.t, map[string]int{"miss": 1, "wait": cap(answers) - 1}, results)
}

// expiry has the value expire while nobody can compute it: all would refresh it early, one may, and all serve it stale.
func (l *load) expiry() {
	l.t.Helper()
	release := l.hold("LOCK TABLE views IN ACCESS EXCLUSIVE MODE")
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	stale := map[string]bool{}
	for len(stale) < len(l.replicas) {
		<-again.C
		for replica := range l.replicas {
			if !stale[replica] && l.list(replica, "lease").result == "stale" {
				stale[replica] = true
			}
		}
	}
	release()
	l.received.Until(l.t, "the early refresh", func() bool {
		return slices.ContainsFunc(l.received.Spans("cache.fill"), func(s otlp.Span) bool {
			return s.Attributes["cache.fill.cause"] == "early"
		})
	})
	require.Equal(l.t, "hit", l.list("two", "lease").result)
}

// withoutProtection asks by the other strategies.
func (l *load) withoutProtection() {
	l.t.Helper()
	require.Equal(l.t, "miss", l.list("one", "ttl").result)
	for replica := range l.replicas {
		require.Equal(l.t, "hit", l.list(replica, "ttl").result)
		require.Equal(l.t, "bypass", l.list(replica, "preload").result)
	}
	l.list("three", "n_plus_one")
}

// liveEvents has each replica take four events.
func (l *load) liveEvents() {
	l.t.Helper()
	payment := 0
	for replica := range l.replicas {
		for range 4 {
			payment++
			a := l.got(http.StatusAccepted, replica, http.MethodPost, "/payments/"+strconv.Itoa(payment)+"/settled", "")
			l.events[a.span] = a
		}
	}
	l.received.Until(l.t, "the events' flushes", func() bool {
		flushed := 0
		for _, flush := range l.received.Spans("buffer.flush") {
			items, err := strconv.Atoi(flush.Attributes["buffer.flush.items"])
			require.NoError(l.t, err)
			flushed += items
		}
		return flushed == payment
	})
}

// run has all payments reconciled by the strategy.
func (l *load) run(strategy string) {
	l.t.Helper()
	l.undo()
	asked := l.start("one", strategy)
	job := l.job(asked, "two", func(job answer) bool { return job.body.State == "done" })
	l.runs[job.body.TraceID] = jobRun{asked, job}
}

func (l *load) start(replica, strategy string) (asked answer) {
	l.t.Helper()
	return l.got(http.StatusAccepted, replica, http.MethodPost, "/reconcile", `{"strategy":"`+strategy+`"}`)
}

// undo has all payments pending again.
func (l *load) undo() {
	l.t.Helper()
	l.got(http.StatusNoContent, "one", http.MethodDelete, "/reconcile", "")
}

// job asks the replica for the run until what it says is right.
func (l *load) job(asked answer, replica string, right func(answer) bool) (job answer) {
	l.t.Helper()
	require.Eventually(l.t, func() bool {
		job = l.got(http.StatusOK, replica, http.MethodGet, asked.header.Get("Location"), "")
		return right(job)
	}, 30*time.Second, 20*time.Millisecond)
	return job
}

// takeover kills whoever works on a run. Another one ends it.
func (l *load) takeover() {
	l.t.Helper()
	l.undo()
	release := l.hold("SELECT FROM payments WHERE id = 70 FOR UPDATE")
	asked := l.start("three", "batched_reads")
	first := l.job(asked, "one", func(job answer) bool { return job.body.Attempts == 1 })
	l.killed = first.body.Replica
	l.received.Until(l.t, "a sign of life", func() bool {
		return slices.ContainsFunc(l.received.Spans("reconcile_beat"), func(s otlp.Span) bool {
			return s.Trace == first.body.TraceID
		})
	})
	l.replicas[l.killed].Kill()
	release()
	survivor := "one"
	if l.killed == survivor {
		survivor = "two"
	}
	job := l.job(asked, survivor, func(job answer) bool { return job.body.State == "done" })
	require.Equal(l.t, 2, job.body.Attempts)
	l.runs[job.body.TraceID] = jobRun{asked, job}
}

// denial asks for one run too many.
func (l *load) denial() {
	l.t.Helper()
	for replica := range l.replicas {
		if replica != l.killed {
			l.denied = l.got(http.StatusTooManyRequests, replica, http.MethodPost, "/reconcile", "")
		}
	}
}

// export is everything that was exported.
type export struct {
	load
	spans    []otlp.Span
	byID     map[string]otlp.Span
	children map[string][]otlp.Span
}

func readExport(l load) export {
	e := export{load: l, spans: l.received.Spans(""), byID: map[string]otlp.Span{}, children: map[string][]otlp.Span{}}
	for _, s := range e.spans {
		e.byID[s.ID] = s
		e.children[s.Parent] = append(e.children[s.Parent], s)
	}
	return e
}

// killedSpan is the name of those that were under way when their replica was killed, and so never left it. What they
// had begun and ended before is there, and names them.
const killedSpan = "killed"

// target returns the span that a link leads to.
func (e export) target(to otlp.Link) (found otlp.Span, known bool) {
	if found, known = e.byID[to.Span]; known {
		return found, found.Trace == to.Trace
	}
	for _, child := range e.children[to.Span] {
		if child.Replica == e.killed && child.Trace == to.Trace {
			return otlp.Span{Trace: to.Trace, ID: to.Span, Name: killedSpan, Replica: e.killed}, true
		}
	}
	return otlp.Span{}, false
}

// linked are the spans that the span's links of a kind lead to.
func (e export) linked(from otlp.Span, kind string) (spans []otlp.Span) {
	for _, link := range from.Links {
		if to, known := e.target(link); known && link.Kind == kind {
			spans = append(spans, to)
		}
	}
	return spans
}

// leads is one kind of link: what it leads from, what to, and how to tell the right one from any other.
type leads struct {
	from, kind string
	to         []string
	right      func(e export, from, to otlp.Span) bool
	// maybe there is none: a second process takes part in a run only where the first one is slow.
	maybe bool
}

// everyKind of link that there is.
var everyKind = []leads{
	{"cache.get", "producer", []string{"cache.fill"}, export.producedIts, false},
	{"cache.get", "holder", []string{"cache.get", "cache.refresh"}, export.workedMeanwhile, false},
	{"cache.refresh", "cause", []string{"cache.get"}, export.beganRefresh, false},
	{"cache.refresh", "holder", []string{"cache.get", "cache.refresh"}, export.workedMeanwhile, false},
	{"buffer.flush", "producer", []string{"reconcile.page", "POST /payments/:id/settled"}, export.filledIt, false},
	{"buffer.flush", "cause", []string{"reconcile.job", "reconcile.help"}, export.goesOnMeanwhile, false},
	{"reconcile.page", "job", []string{"reconcile.job", "reconcile.help"}, export.goesOnMeanwhile, false},
	{"reconcile.help", "job", []string{"reconcile.job"}, export.goesOnMeanwhile, true},
	{"reconcile.job", "cause", []string{"POST /reconcile"}, export.askedForIt, false},
	{"reconcile.job", "first_attempt", []string{killedSpan}, export.beganRun, false},
}

func (e export) everyLinkLeadsToTheRightSpan(t *testing.T) {
	met := map[string]int{}
	for _, from := range e.spans {
		for _, link := range from.Links {
			i := slices.IndexFunc(everyKind, func(k leads) bool { return k.from == from.Name && k.kind == link.Kind })
			require.NotEqual(t, -1, i, "%s has a link of the kind %q", from.Name, link.Kind)
			kind := everyKind[i]
			to, known := e.target(link)
			require.True(t, known, "%s leads to its %s, which was not exported", from.Name, link.Kind)
			require.Contains(t, kind.to, to.Name, "%s, %s", from.Name, link.Kind)
			require.NotEqual(t, from.Trace, to.Trace, "%s, %s: it is in sight anyway", from.Name, link.Kind)
			require.True(t, kind.right(e, from, to), "%s, %s: the wrong %s\nfrom %+v\nto %+v",
				from.Name, link.Kind, to.Name, from, to)
			met[kind.from+" "+kind.kind]++
			if from.Replica != to.Replica {
				met[kind.from+" "+kind.kind+" elsewhere"]++
			}
		}
	}
	t.Log(met)
	for _, kind := range everyKind {
		require.True(t, kind.maybe || met[kind.from+" "+kind.kind] > 0, "%s, %s", kind.from, kind.kind)
	}
	for _, kind := range []string{"cache.get producer", "cache.get holder", "reconcile.job first_attempt"} {
		require.Positive(t, met[kind+" elsewhere"], kind)
	}
}

// producedIts: the list says when it was generated. At that moment one fill was under way, and no other.
func (e export) producedIts(from, fill otlp.Span) bool {
	got, ran := e.lists[from.Trace], 0
	generated := got.body.GeneratedAt
	for _, s := range e.spans {
		if s.Name == fill.Name && s.Attributes["cache.strategy"] == got.body.Strategy &&
			!generated.Before(s.Start) && !generated.After(s.End) {
			ran++
			if s.ID != fill.ID {
				return false
			}
		}
	}
	return ran == 1 && fill.Attributes["cache.fill.outcome"] == "committed"
}

// workedMeanwhile: who was waited for filled, in that very span, while the other waited; and who waited to the end got
// what was filled.
func (e export) workedMeanwhile(from, holder otlp.Span) bool {
	for _, fill := range e.children[holder.ID] {
		if fill.Name == "cache.fill" && holder.Start.Before(from.End) && from.Start.Before(fill.End) {
			return from.Attributes["cache.result"] != "wait" || e.linked(from, "producer")[0].ID == fill.ID
		}
	}
	return false
}

// beganRefresh: one is begun by a request that was served from memory, in its process; and a hit says so.
func (e export) beganRefresh(refresh, get otlp.Span) bool {
	result := get.Attributes["cache.result"]
	return refresh.Replica == get.Replica && !refresh.Start.Before(get.Start) &&
		(result == "stale" || result == "hit" && slices.Contains(get.Events, "refresh.early"))
}

// filledIt: of live events those that were answered before the flush, of runs the pages of the run that asked for it.
func (e export) filledIt(flush, producer otlp.Span) bool {
	if flush.Attributes["buffer.name"] == "live" {
		_, event := e.events[producer.ID]
		return event && producer.Start.Before(flush.Start)
	}
	asked, page := e.linked(flush, "cause"), e.linked(producer, "job")
	return len(asked) == 1 && len(page) == 1 && asked[0].ID == page[0].ID
}

// goesOnMeanwhile: what leads to a run is part of it.
func (e export) goesOnMeanwhile(part, job otlp.Span) bool {
	return part.Replica == job.Replica && part.Start.After(job.Start) && part.End.Before(job.End)
}

// askedForIt: who was answered with the run whose trace this is, or whose it was at first.
func (e export) askedForIt(job, request otlp.Span) bool {
	trace := job.Trace
	if first := e.linked(job, "first_attempt"); len(first) > 0 {
		trace = first[0].Trace
	}
	return e.runs[trace].asked.span == request.ID
}

// beganRun: the run says in which trace it began, and that another has ended it.
func (e export) beganRun(job, first otlp.Span) bool {
	over := e.runs[first.Trace].over.body
	return over.Attempts == 2 && over.Replica == job.Replica && first.Replica == e.killed
}

// couldNotKnowTheHolder says that a stale answer was given without the lease's reply, which names the holder: at once,
// because the last fill took longer than the soft timeout, or after that timeout.
func (e export) couldNotKnowTheHolder(get otlp.Span) bool {
	const softTimeout = 250 * time.Millisecond
	fills := e.linked(get, "producer")
	return get.End.Sub(get.Start) >= softTimeout ||
		len(fills) == 1 && fills[0].End.Sub(fills[0].Start) >= softTimeout
}

// noLinkIsMissing: what leads where is the same for all of a kind.
func (e export) noLinkIsMissing(t *testing.T) {
	events := map[string]int{}
	for _, s := range e.spans {
		kinds := map[string]int{}
		for _, link := range s.Links {
			kinds[link.Kind]++
		}
		due := map[string]int{}
		switch s.Name {
		case "cache.get":
			due = map[string]map[string]int{
				"hit": {"producer": 1}, "stale": {"producer": 1, "holder": 1}, "wait": {"producer": 1, "holder": 1}, "miss": {},
			}[s.Attributes["cache.result"]]
			if s.Attributes["cache.result"] == "stale" && kinds["holder"] == 0 && e.couldNotKnowTheHolder(s) {
				delete(due, "holder")
			}
		case "cache.refresh":
			due["cause"] = 1
			if !slices.ContainsFunc(e.children[s.ID], func(c otlp.Span) bool { return c.Name == "cache.fill" }) {
				due["holder"] = 1
			}
		case "reconcile.page", "reconcile.help":
			due["job"] = 1
		case "reconcile.job":
			due["cause"] = 1
			if s.Attributes["reconcile.attempt"] == "2" {
				due["first_attempt"] = 1
			}
		case "buffer.flush":
			due["producer"], due["cause"] = 1, 1 // a hundred payments are one page
			if s.Attributes["buffer.name"] == "live" {
				items, err := strconv.Atoi(s.Attributes["buffer.flush.items"])
				require.NoError(t, err)
				due = map[string]int{"producer": items}
				for _, link := range s.Links {
					events[link.Span]++
				}
			}
		}
		require.Equal(t, due, kinds, "%s %v", s.Name, s.Attributes)
	}
	for span := range e.events {
		require.Equal(t, 1, events[span], "each event is in one flush")
	}
}

// aDenialLeadsNowhere: it says when it ends instead, as the answer does.
func (e export) aDenialLeadsNowhere(t *testing.T) {
	i := slices.IndexFunc(e.spans, func(s otlp.Span) bool {
		return s.Name == "ratelimit.check" && s.Trace == e.denied.trace
	})
	require.NotEqual(t, -1, i)
	check := e.spans[i]
	require.Empty(t, check.Links)
	require.Equal(t, []string{"denied", "runs"},
		[]string{check.Attributes["ratelimit.result"], check.Attributes["ratelimit.policy"]})
	wait, err := strconv.ParseFloat(check.Attributes["ratelimit.wait"], 64)
	require.NoError(t, err)
	require.Equal(t, e.denied.header.Get("Retry-After"), strconv.Itoa(int(math.Ceil(wait))))
}

// roots are the calls to stores that belong to nobody's trace, and why.
var roots = []struct{ call, why string }{
	{`redis\.dial`, "go-redis dials apart from the request that needs a connection"},
	{`HELLO|PIPELINE SCRIPT LOAD`, "a connection is set up for whoever comes to use it"},
	{`CONNECT|PREPARE \w+`, "likewise: the pool connects by itself"},
	{`(UN)?SUBSCRIBE|PING`, "a subscription serves all who wait"},
	{`schema_version`, "is the replica ready? It looks in the background"},
	{`pooler_probe`, "is there a pooler? Asked once, before the pool connects"},
	{`reconcile_(look|take)`, "a worker looks for a run, and has a span once it has taken one"},
	{`reconcile_(due|disagreeing|prune|prune_due)|buffer_prune`, "the schedule, which no request has asked for"},
	{`ZRANGE|PIPELINE SCARD|PIPELINE \[SCARD HGET ZRANGE\]`, "is there anything to flush? Then that has a span"},
	{`EVALSHA buffer\.(list|register|cut|claim|forget|discard)`, "the flusher finds, claims and forgets buffers"},
	{`EVALSHA cache\.register`, "a cache keeps its version registered"},
	{`ZREM`, "a replica that ends takes itself off the list of those alive"},
	{`ACQUIRE`, "any of these may have had to wait for a connection"},
}

func (e export) everyCallHasAParent(t *testing.T) {
	calls := map[string]int{}
	for _, s := range e.spans {
		if _, known := e.byID[s.Parent]; !known && s.Parent != "" {
			require.Equal(t, e.killed, s.Replica, "the parent of %s %v was not exported", s.Name, s.Attributes)
		}
		if s.Parent == "" && s.Attributes["db.system.name"] != "" {
			calls[callOf(s)]++
		}
	}
	t.Log(calls)
	for call := range calls {
		require.True(t, slices.ContainsFunc(roots, func(root struct{ call, why string }) bool {
			return regexp.MustCompile("^(" + root.call + ")$").MatchString(call)
		}), "whose is %s?", call)
	}
}

// callOf names a call by what was called, a pipeline by what is in it.
func callOf(s otlp.Span) string {
	switch called := s.Attributes["store.calls.names"]; {
	case s.Name == "PIPELINE":
		return s.Name + " " + called
	case s.Attributes["db.stored_procedure.name"] != "":
		return s.Name + " " + s.Attributes["db.stored_procedure.name"]
	}
	return s.Name
}
