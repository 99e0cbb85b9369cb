package cache_test

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// against times one way beside another and reports the median time of the first, its allocations, and how many times
// the second's median that is. The two take turns, so that whatever else the machine does disturbs both alike: the
// ratio holds on a busy machine, the time does not.
func against(b *testing.B, unit string, reference, way func() error) {
	b.Helper()
	timed := func(f func() error) time.Duration {
		begun := time.Now()
		require.NoError(b, f())
		return time.Since(begun)
	}
	var ways, references []time.Duration
	for b.Loop() {
		references = append(references, timed(reference))
		ways = append(ways, timed(way))
	}
	median := quantile(ways, 0.5)
	b.ReportMetric(float64(median), "ns/op")
	b.ReportMetric(float64(median)/float64(quantile(references, 0.5)), unit)
	reportAllocations(b, way)
}

// reportAllocations counts apart, because the benchmark's own count would be of both ways.
func reportAllocations(b *testing.B, way func() error) {
	const runs = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		require.NoError(b, way())
	}
	runtime.ReadMemStats(&after)
	b.ReportAllocs()
	b.ReportMetric(float64((after.Mallocs-before.Mallocs)/runs), "allocs/op")
	b.ReportMetric(float64((after.TotalAlloc-before.TotalAlloc)/runs), "B/op")
}

// quantile is the time that the given share of all does not exceed.
func quantile(times []time.Duration, share float64) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
