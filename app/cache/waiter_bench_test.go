package cache_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest"
)

// How long those who wait for a fill are still in the cache after it has ended: woken by push, and by the poll behind
// it alone. The time runs from the loader's return, so that encoding and COMMIT are in it.
//
// The ten caches live in one process, each with connections of its own: they compete for the lease as replicas do, and
// compete for the processor a little more.
func BenchmarkWaiterDelay(b *testing.B) {
	b.Run("push", func(b *testing.B) { waiterDelay(b, true) })
	b.Run("poll", func(b *testing.B) { waiterDelay(b, false) })
}

func waiterDelay(b *testing.B, push bool) {
	const caches, callers = 10, 30
	// Long enough for the poll to have slowed down, as it has when a real query ends.
	const fillTime = 500 * time.Millisecond

	server := servicetest.Redis(b)
	var filled sync.Map // when the loader returned, by key
	load := func(_ context.Context, key string) (string, error) {
		<-time.After(fillTime)
		filled.Store(key, time.Now())
		return key, nil
	}
	var replicas []*cache.Cache[string]
	for range caches {
		c := cache.New(benchClient(b, server), cache.Options[string]{Name: "test", Load: load})
		if push {
			running(b, c)
		}
		replicas = append(replicas, c)
	}
	if push {
		admin := benchClient(b, server)
		require.Eventually(b, func() bool {
			listening, err := admin.PubSubNumSub(b.Context(), channel).Result()
			return err == nil && listening[channel] == caches
		}, time.Minute, time.Millisecond)
	}

	var mu sync.Mutex
	var delays []time.Duration
	for key := 0; b.Loop(); key++ {
		var asking sync.WaitGroup
		for i := range caches * callers {
			asking.Go(func() {
				_, info, err := replicas[i%caches].Get(b.Context(), fmt.Sprint(key))
				returned := time.Now()
				if err != nil || info.Result != cache.ResultWait {
					return // the one who did the work
				}
				at, _ := filled.Load(fmt.Sprint(key))
				mu.Lock()
				defer mu.Unlock()
				delays = append(delays, returned.Sub(at.(time.Time)))
			})
		}
		asking.Wait()
	}
	require.Len(b, delays, b.N*(caches*callers-1), "everybody but the leader waits")
	b.ReportMetric(0, "ns/op") // the loader's, mostly
	b.ReportMetric(milliseconds(quantile(delays, 0.5)), "p50-ms")
	b.ReportMetric(milliseconds(quantile(delays, 0.99)), "p99-ms")
}

// running keeps the cache listening until the benchmark ends.
func running[V any](b *testing.B, c *cache.Cache[V]) {
	b.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(b.Context()))
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		require.NoError(b, <-ended)
	})
}
