package reconcile_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
	"nervous/app/reconcile"
)

// A run is a trace that leads to the request which asked for it; its pages are traces of their own that lead to the
// run, and the flush's leads to them.
func TestTheTracesOfARun(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	replica := s.replica(t, reconcile.Options{})
	started := replica.start(reconcile.Buffered)
	id := started.Job.ID
	run := s.over(t, id)
	job := replica.job()
	require.True(t, job.Root)
	require.Equal(t, run.TraceID, job.Trace)
	require.Equal(t, map[string][]string{"cause": {started.Span}}, job.Links)
	require.Equal(t, map[string]string{
		"reconcile.strategy": "buffered", "reconcile.payments": "1000", "reconcile.attempt": "1", "reconcile.state": "done",
	}, job.Attributes)
	require.Empty(t, job.Error)

	pages := replica.Spans(reconcile.SpanPage)
	require.Len(t, pages, 1)
	for _, page := range pages {
		require.True(t, page.Root)
		require.Equal(t, map[string][]string{"job": {job.ID}}, page.Links)
		require.Equal(t, map[string]string{"reconcile.strategy": "buffered"}, page.Attributes)
		require.NotEqual(t, job.Trace, page.Trace)
	}
	flushes := replica.Spans(buffer.SpanFlush)
	require.Len(t, flushes, 1)
	require.True(t, flushes[0].Root)
	require.Equal(t, map[string][]string{"producer": {pages[0].ID}, "cause": {job.ID}}, flushes[0].Links)

	// A live event leads to its flush likewise.
	event := replica.settled(middle)
	eventually(t, func() bool { return len(replica.Spans(buffer.SpanFlush)) == 2 })
	require.Equal(t, map[string][]string{"producer": {event.Span}}, replica.Spans(buffer.SpanFlush)[1].Links)
}

// However many payments there are, the trace of a run is small, and that of a page no larger than a page.
func TestNoTraceGrowsWithThePayments(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	replica := s.replica(t, reconcile.Options{})
	run := s.over(t, replica.start(reconcile.NPlusOne).Job.ID)
	replica.job()
	sizes := map[string]int{}
	for _, span := range replica.Spans("") {
		if span.Name != "ACQUIRE" { // there is one only where a busy machine made it wait for a connection
			sizes[span.Trace]++
		}
	}
	// Its own, what it costs to begin and to end, and a beat a second, with a connection of its own.
	require.LessOrEqual(t, sizes[run.TraceID], 30+int(run.Took.Seconds()))
	pages := replica.Spans(reconcile.SpanPage)
	require.Len(t, pages, 1)
	require.Equal(t, 1+1+1+payments+agreeing, sizes[pages[0].Trace],
		"itself, the ids, the note where they end, a find each, a transaction each")
}

// Who takes a run over leads to the first worker, which the record names: where it was killed, no other trace of it is
// left. One that comes back has a span that is there to be led to: TestAWorkerThatWasPausedIsReplaced.
func TestATakeoverLeadsToTheFirstWorker(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	release := s.hold(t)
	doomed := s.replica(t, reconcile.Options{Silence: silence})
	started := doomed.start(reconcile.BatchedReads)
	s.blocked(t)
	first := s.firstWorker(t, started.Job.ID)
	doomed.Kill()
	successor := s.replica(t, reconcile.Options{Silence: silence})
	s.taken(t, started.Job.ID, 2)
	release()
	run := s.over(t, started.Job.ID)
	require.Equal(t, first.trace, run.TraceID)
	job := successor.job()
	require.NotEqual(t, first.trace, job.Trace)
	require.Equal(t, map[string][]string{"cause": {started.Span}, "first_attempt": {first.span}}, job.Links)
	require.Equal(t, "2", job.Attributes["reconcile.attempt"])
	require.Equal(t, map[string]float64{"": 1}, successor.Metric(reconcile.MetricTakeovers))
}

// firstWorker is whom a run's record names.
type firstWorker struct{ trace, span string }

func (s stores) firstWorker(t *testing.T, id uuid.UUID) (first firstWorker) {
	t.Helper()
	var recorded string
	require.NoError(t, s.pool.QueryRow(t.Context(),
		"SELECT traceparent FROM reconcile_jobs WHERE id = $1", id).Scan(&recorded))
	fields := strings.Split(recorded, "-")
	require.Len(t, fields, 4, recorded)
	return firstWorker{fields[1], fields[2]}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	replica := s.replica(t, reconcile.Options{CountEvery: often})
	for _, by := range reconcile.Strategies() {
		job := s.over(t, replica.start(by).Job.ID)
		require.Equal(t, map[string]float64{
			string(by) + " reconciled": agreeing, string(by) + " amount": 10, string(by) + " currency": 10,
			string(by) + " missing": 10,
		}, of(by, replica.Metric(reconcile.MetricItems, "strategy", "outcome")))
		// That it has ended is reported once the record says so.
		eventually(t, func() bool {
			return replica.Metric(reconcile.MetricDuration, "strategy", "outcome")[string(by)+" done"] == 1
		})
		require.InDelta(t, 1, replica.Metric(reconcile.MetricProgress, "strategy")[string(by)], 0, "and for a while")
		spent := replica.Metric("store.round_trips", "store", "operation", "strategy")
		require.InDelta(t, job.DBTrips, spent["postgres job reconcile "+string(by)], 0)
		require.NoError(t, s.asker.Reset(t.Context()))
	}
	require.Empty(t, replica.Metric(reconcile.MetricTakeovers))
	replica.settled(middle)
	require.Equal(t, map[string]float64{"buffered": 1}, replica.Metric(reconcile.MetricEvents, "outcome"))
	eventually(t, func() bool { return s.marked(t) == 1 })
	eventually(t, func() bool { return replica.Metric(reconcile.MetricPayments, "status")["reconciled"] == 1 })
	require.Equal(t, map[string]float64{"pending": payments - 1, "reconciled": 1},
		replica.Metric(reconcile.MetricPayments, "status"))
	require.Positive(t, replica.Metric("store.round_trips", "store", "operation")["postgres job bookkeeping"])
	require.Positive(t, replica.Metric("store.round_trips", "store", "operation")["postgres flush live"])
}

// What the last run cost and found stands alone, whatever the one before did: here it finds only what is left.
func TestMetricsOfTheLastRun(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	replica := s.replica(t, reconcile.Options{})
	var before float64
	for n, reconciled := range []float64{agreeing, 0} {
		job := s.over(t, replica.start(reconcile.Buffered).Job.ID)
		eventually(t, func() bool { return replica.Metric(reconcile.MetricDuration)[""] == float64(n+1) })
		require.Equal(t, map[string]float64{
			"buffered postgres": float64(job.DBTrips), "buffered redis": float64(job.RedisTrips),
		}, replica.Metric(reconcile.MetricLastRoundTrips, "strategy", "store"))
		require.Equal(t, map[string]float64{
			"buffered reconciled": reconciled, "buffered amount": 10, "buffered currency": 10, "buffered missing": 10,
		}, replica.Metric(reconcile.MetricLastPayments, "strategy", "outcome"))
		ended := replica.Metric(reconcile.MetricLastEnded, "strategy")["buffered"]
		require.InDelta(t, float64(job.FinishedAt.Unix()), ended, 10, "Unix time, in seconds")
		require.Greater(t, ended, before)
		before = ended
	}
}

// of are the values whose attributes begin with the strategy.
func of(by reconcile.Strategy, values map[string]float64) map[string]float64 {
	mine := map[string]float64{}
	for attributes, n := range values {
		if len(attributes) > len(by) && attributes[:len(by)+1] == string(by)+" " {
			mine[attributes] = n
		}
	}
	return mine
}
