// Package compare_test holds our cache and our rate limit against others, on what they all do: remember a value of a
// trending list's size, and decide whether a caller may go on.
//
//	cd loadtest/compare
//	go test -bench . -benchtime 2000x
//
// It needs a redis-server in the PATH and starts its own. Only ratios within one run mean anything: each hit is timed
// in turn with a bare GET, so that whatever else the machine does disturbs both alike. It is a module of its own, so
// that what we compare ourselves with never becomes a dependency of the service.
package compare_test

import (
	"context"
	"encoding/json"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

// What a hit costs, as a multiple (x_bare_get) of go-redis's GET of a value of the same size, which nobody decodes.
func BenchmarkHit(b *testing.B) {
	rdb := connect(b, servicetest.Redis(b))
	value, err := topTen(b.Context())
	require.NoError(b, err)
	encoded, err := json.Marshal(value)
	require.NoError(b, err)
	require.NoError(b, rdb.Set(b.Context(), "bare", encoded, ttl).Err())

	bare := func() error { return rdb.Get(b.Context(), "bare").Err() }
	b.Run("bare_GET", func(b *testing.B) { against(b, bare, bare) })
	b.Run("bare_GET_and_JSON", func(b *testing.B) {
		against(b, bare, func() error {
			stored, err := rdb.Get(b.Context(), "bare").Bytes()
			if err != nil {
				return err
			}
			var decoded list // a new one, as everybody else's callers get
			return json.Unmarshal(stored, &decoded)
		})
	})
	for _, c := range contestants {
		b.Run(c.name, func(b *testing.B) {
			require.NoError(b, rdb.FlushAll(b.Context()).Err())
			require.NoError(b, rdb.Set(b.Context(), "bare", encoded, ttl).Err())
			fills := 0
			get := c.open(b, rdb, func(ctx context.Context) (list, error) {
				fills++
				return topTen(ctx)
			})
			hit := func() error {
				_, err := get(b.Context())
				return err
			}
			require.NoError(b, hit(), "the first fills")
			against(b, bare, hit)
			require.Equal(b, 1, fills, "only hits were measured")
		})
	}
}

// against times one way in turn with a reference and reports its median, its allocations, and the ratio of the medians.
func against(b *testing.B, reference, way func() error) {
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
	b.ReportMetric(float64(median(ways)), "ns/op")
	b.ReportMetric(float64(median(ways))/float64(median(references)), "x_bare_get")
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

func median(times []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(times))[len(times)/2]
}

func connect(b *testing.B, server *servicetest.RedisServer) *redis.Client {
	b.Helper()
	client := redis.NewClient(server.Options())
	b.Cleanup(func() { _ = client.Close() })
	return client
}
