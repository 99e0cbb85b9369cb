package buffer_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
)

// A flush is a trace of its own, which leads to the spans that its ids came from, in whatever process, and to the one
// that asked for it.
func TestAFlushLinksToWhereItsIDsCameFrom(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l, s := newLedger(t, payments), settings{Producers: 3, Lease: lease, FlushAge: often}
		one, other := startProcess(t, b, l, s), startProcess(t, b, l, s)
		producers := []string{one.add(live, 1, 10), other.add(live, 11, 20), one.add(live, 21, 30)}
		producers = append(producers, other.add(live, 31, 40), other.add(live, 41, 50)) // more than are remembered
		flusher := startProcess(t, b, l, s)
		done := flusher.flush(live)

		spans := flusher.Spans(buffer.SpanFlush)
		require.Len(t, spans, 1)
		flush := spans[0]
		require.True(t, flush.Root)
		require.ElementsMatch(t, producers[:3], flush.Links["producer"])
		require.Equal(t, []string{done.Cause}, flush.Links["cause"])
		require.Equal(t, map[string]string{
			"buffer.name": family, "buffer.flush.origin": "cut", "buffer.flush.outcome": "committed",
			"buffer.flush.items": "50", "buffer.flush.applied": "35",
		}, flush.Attributes)

		// What another has cut keeps its producers; nobody asked for its flush.
		doomed := s
		doomed.StopAt = "cut"
		p := startProcess(t, b, l, doomed)
		producer := p.add(live, 51, 60)
		p.beginFlush()
		p.reached()
		p.Kill()
		s.Run = true
		successor := startProcess(t, b, l, s)
		eventually(t, func() bool { return len(successor.Spans(buffer.SpanFlush)) == 1 })
		flush = successor.Spans(buffer.SpanFlush)[0]
		require.Equal(t, map[string][]string{"producer": {producer}}, flush.Links)
		require.Equal(t, "recovered", flush.Attributes["buffer.flush.origin"])
	})
}

func TestMetrics(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := newLedger(t, payments)
		w := startProcess(t, b, l, settings{StopAt: "in transaction", Lease: lease})
		watcher := startProcess(t, b, l, settings{FlushAge: often, Run: true})
		w.add(live, 1, 400)
		flush := w.beginFlush()
		w.reached()
		w.add("another", 401, 500)
		// Gauges are the sums over the buffers of a label, as every process that runs sees them in Redis.
		eventually(t, func() bool { return watcher.Metric(buffer.MetricDepth, "buffer")[family] == 500 })
		require.Equal(t, map[string]float64{family: 1}, watcher.Metric(buffer.MetricGenerations, "buffer"))
		age := watcher.Metric(buffer.MetricOldestAge, "buffer")[family]
		require.Positive(t, age)
		require.Less(t, age, patience.Seconds())
		w.goOn()
		require.NoError(t, (<-flush).err)
		w.flush("another")
		eventually(t, func() bool { return watcher.Metric(buffer.MetricDepth, "buffer")[family] == 0 })
		// Read one after another while the last generation is acknowledged, they may be of two moments.
		eventually(t, func() bool { return watcher.Metric(buffer.MetricGenerations, "buffer")[family] == 0 })
		eventually(t, func() bool { return watcher.Metric(buffer.MetricOldestAge, "buffer")[family] == 0 })

		require.Equal(t, map[string]float64{"test added": 500}, w.Metric(buffer.MetricAdds, "buffer", "outcome"))
		require.Equal(t, map[string]float64{"test committed cut": 2},
			w.Metric(buffer.MetricFlushes, "buffer", "outcome", "origin"))
		require.Equal(t, map[string]float64{"test committed": 500}, w.Metric(buffer.MetricFlushItems, "buffer", "outcome"))
		require.Equal(t, map[string]float64{"test committed": 2}, w.Metric(buffer.MetricFlushDuration, "buffer", "outcome"))
		require.Empty(t, watcher.flushes())
	})
}

// Who adds to a Redis that is away is told so soon, and each id is counted.
func TestAddsToARedisThatIsAwayAreRefused(t *testing.T) {
	t.Parallel()
	b, l := oneRedis(t), newLedger(t, payments)
	w := startProcess(t, b, l, settings{})
	w.add(live, 1, 10)
	require.NoError(t, b.nodes[0].Kill())
	began := time.Now()
	require.Error(t, w.Try("Add", Payments{live, 11, 30}, new(string)))
	require.Less(t, time.Since(began), patience)
	require.Equal(t, map[string]float64{"added": 10, "refused": 20}, w.Metric(buffer.MetricAdds, "outcome"))
}
