package cache_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest"
)

// What requests notice of a hot key's expiry: their p99 on a key that expires again and again, against that of plain
// hits on one that does not. One iteration is one life of the value.
//
// Requests arrive at a steady rate whether or not earlier ones have been answered: a caller who waits for an answer
// before asking again would ask once, and not a hundred times, while the value is computed, and hide the stampede.
func BenchmarkExpiry(b *testing.B) {
	b.Run("Cache", func(b *testing.B) {
		throughExpiries(b, func(rdb *redis.Client, o cache.Options[string]) getter { return cache.New(rdb, o).Get })
	})
	b.Run("ReadThrough", func(b *testing.B) {
		throughExpiries(b, func(rdb *redis.Client, o cache.Options[string]) getter {
			return cache.NewReadThrough(rdb, o).Get
		})
	})
}

type getter func(ctx context.Context, key string) (string, cache.Info, error)

func throughExpiries(b *testing.B, open func(*redis.Client, cache.Options[string]) getter) {
	const life, fillTime, pause, replicas = time.Second, 200 * time.Millisecond, time.Millisecond, 3
	server := servicetest.Redis(b)
	var fills atomic.Int64
	load := func(_ context.Context, key string) (string, error) {
		fills.Add(1)
		<-time.After(fillTime)
		return key, nil
	}
	var hot, plain []getter
	for range replicas {
		rdb := benchClient(b, server)
		hot = append(hot, open(rdb, cache.Options[string]{Name: "hot", Load: load, TTL: life}))
		plain = append(plain, open(rdb, cache.Options[string]{Name: "plain", Load: load, TTL: 24 * time.Hour}))
	}
	var hits, expiring latencies
	for _, first := range []struct {
		get getter
		key string
	}{{plain[0], "plain"}, {hot[0], "hot"}} {
		_, _, err := first.get(b.Context(), first.key)
		require.NoError(b, err)
	}
	before := fills.Load()

	var asking sync.WaitGroup
	arrivals := time.NewTicker(pause)
	defer arrivals.Stop()
	for b.Loop() {
		// By the clock: a busy machine drops ticks.
		for n, begun := 0, time.Now(); time.Since(begun) < life; n++ {
			<-arrivals.C
			asking.Go(func() {
				if n%2 == 0 {
					hits.measure(b, plain[n%replicas], "plain")
				} else {
					expiring.measure(b, hot[n%replicas], "hot")
				}
			})
		}
	}
	asking.Wait()

	b.ReportMetric(0, "ns/op") // the rate of arrivals
	b.ReportMetric(milliseconds(quantile(hits.times, 0.99)), "plain-p99-ms")
	b.ReportMetric(milliseconds(quantile(expiring.times, 0.99)), "p99-ms")
	b.ReportMetric(float64(quantile(expiring.times, 0.99))/float64(quantile(hits.times, 0.99)), "x_plain_p99")
	b.ReportMetric(float64(expiring.waited)/float64(b.N), "waited/life")
	b.ReportMetric(float64(fills.Load()-before)/float64(b.N), "fills/life")
}

// latencies are those of requests, and how many of them were not answered from memory.
type latencies struct {
	mu     sync.Mutex
	times  []time.Duration
	waited int
}

func (l *latencies) measure(b *testing.B, get getter, key string) {
	began := time.Now()
	_, info, err := get(b.Context(), key)
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times = append(l.times, took)
	if err != nil || info.Result != cache.ResultHit {
		l.waited++
	}
}
