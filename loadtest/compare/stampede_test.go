package compare_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

// How often a value is computed (fills/stampede; one would do) when 300 requests miss it at once, 100 on each of three
// replicas, and how long the last of them waits beyond the time that computing it once takes (late-ms).
//
// Three clients in one process stand in for three replicas: nobody here shares anything between two of them but Redis.
func BenchmarkStampede(b *testing.B) {
	const replicas, callers = 3, 100
	const fillTime = 200 * time.Millisecond
	for _, c := range contestants {
		b.Run(c.name, func(b *testing.B) {
			server := servicetest.Redis(b)
			var fills atomic.Int64
			var clients []*redis.Client
			var gets []get
			for range replicas {
				rdb := connect(b, server)
				clients = append(clients, rdb)
				gets = append(gets, c.open(b, rdb, func(ctx context.Context) (list, error) {
					fills.Add(1)
					<-time.After(fillTime)
					return topTen(ctx)
				}))
			}
			// Ten tell as much as the thousands that suit a hit.
			rounds := min(b.N, 10)
			var late time.Duration
			for range rounds {
				require.NoError(b, clients[0].FlushAll(b.Context()).Err())
				began := time.Now()
				var asking sync.WaitGroup
				for i := range replicas * callers {
					asking.Go(func() {
						if _, err := gets[i%replicas](b.Context()); err != nil {
							b.Error(err)
						}
					})
				}
				asking.Wait()
				late += time.Since(began) - fillTime
			}
			b.ReportMetric(0, "ns/op") // the rounds are not b.N
			b.ReportMetric(float64(fills.Load())/float64(rounds), "fills/stampede")
			b.ReportMetric(float64(late.Milliseconds())/float64(rounds), "late-ms")
		})
	}
}
