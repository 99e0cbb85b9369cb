package cache_test

import (
	"context"
	"fmt"
	"sync"
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
	const life, fillTime, pause, replicas = time.Second, 200 * time.Millisecond, 2 * time.Millisecond, 3
	server := servicetest.Redis(b)
	var fills counter
	load := func(_ context.Context, key string) (string, error) {
		fills.add()
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
	plain[0](b.Context(), "plain")
	hot[0](b.Context(), "hot")
	before := fills.get()

	var asking sync.WaitGroup
	arrivals := time.NewTicker(pause)
	defer arrivals.Stop()
	for i := 0; b.Loop(); {
		for range life / pause {
			<-arrivals.C
			i++
			asking.Go(func() {
				hits.measure(b, plain[i%replicas], "plain")
				expiring.measure(b, hot[i%replicas], "hot")
			})
		}
	}
	asking.Wait()

	b.ReportMetric(0, "ns/op") // the rate of arrivals
	b.ReportMetric(milliseconds(quantile(hits.times, 0.99)), "plain-p99-ms")
	b.ReportMetric(milliseconds(quantile(expiring.times, 0.99)), "p99-ms")
	b.ReportMetric(float64(quantile(expiring.times, 0.99))/float64(quantile(hits.times, 0.99)), "x_plain_p99")
	b.ReportMetric(float64(expiring.noHits)/float64(b.N), "waited/life")
	b.ReportMetric(float64(fills.get()-before)/float64(b.N), "fills/life")
}
