package buffer_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
	"nervous/app/servicetest"
)

// The benchmarks assert nothing: a figure is worth as much as the machine was idle.
//
//	go test -run '^$' -bench . -benchtime 20x ./app/buffer

// BenchmarkAdd adds 50,000 ids at once, as a job does, and one at a time, as live events come.
func BenchmarkAdd(b *testing.B) {
	for _, way := range []struct {
		name string
		ids  int64
	}{{"50000", 50_000}, {"1", 1}} {
		b.Run(way.name, func(b *testing.B) {
			rdb, trips := counted(b, servicetest.Redis(b))
			buf := buffer.New(rdb, nil, buffer.Options[int64]{Name: family, Apply: mark}).Open(live)
			ids := Payments{live, 1, way.ids}.ids()
			require.NoError(b, buf.Add(b.Context(), 0)) // and have the script there
			trips.Store(0)
			for b.Loop() {
				require.NoError(b, buf.Add(b.Context(), ids...))
				b.StopTimer()
				require.NoError(b, buf.Drop(b.Context()))
				trips.Add(-1) // of Drop
				b.StartTimer()
			}
			b.ReportMetric(float64(way.ids)*float64(b.N)/b.Elapsed().Seconds(), "ids/s")
			b.ReportMetric(float64(trips.Load())/float64(b.N), "round-trips/op")
		})
	}
}

// BenchmarkFlush brings 50,000 ids from Redis to Postgres, where Apply marks those that agree. Postgres does not wait
// for its disk here.
func BenchmarkFlush(b *testing.B) {
	const payments = 50_000
	rdb, trips := counted(b, servicetest.Redis(b))
	l := newLedger(b, payments)
	_, err := l.pool.Exec(b.Context(), "DROP TRIGGER write_down ON payments") // it costs more than what is measured
	require.NoError(b, err)
	buf := buffer.New(rdb, l.pool, buffer.Options[int64]{Name: family, Apply: mark}).Open(live)
	ids := Payments{live, 1, payments}.ids()
	require.NoError(b, buf.Add(b.Context(), ids[0]))
	_, err = buf.Flush(b.Context()) // and have the scripts and statements there
	require.NoError(b, err)
	var memory, measured int64
	for b.Loop() {
		b.StopTimer()
		require.NoError(b, buf.Add(b.Context(), ids...))
		memory, err = rdb.MemoryUsage(b.Context(), key(member, "open"), 0).Result()
		require.NoError(b, err)
		for _, reset := range []string{
			"UPDATE payments SET status = 'pending', reconciled_at = NULL", "VACUUM ANALYZE payments",
		} {
			_, err = l.pool.Exec(b.Context(), reset)
			require.NoError(b, err)
		}
		before := trips.Load()
		b.StartTimer()
		done, err := buf.Flush(b.Context())
		require.NoError(b, err)
		require.EqualValues(b, payments, done.Items)
		require.Equal(b, agree(1, payments), done.Applied)
		measured += trips.Load() - before
	}
	b.ReportMetric(payments*float64(b.N)/b.Elapsed().Seconds(), "ids/s")
	b.ReportMetric(float64(measured)/float64(b.N), "redis-round-trips/op")
	b.ReportMetric(float64(memory), "redis-bytes")
	b.ReportMetric(float64(memory)/payments, "redis-bytes/id")
}

// counted is a client that counts its round-trips.
func counted(b *testing.B, server *servicetest.RedisServer) (*redis.Client, *atomic.Int64) {
	b.Helper()
	rdb, trips := connect(b, server), &atomic.Int64{}
	rdb.AddHook(counting{trips})
	return rdb, trips
}

type counting struct{ trips *atomic.Int64 }

func (counting) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c counting) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.trips.Add(1)
		return next(ctx, cmd)
	}
}

func (c counting) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.trips.Add(1)
		return next(ctx, cmds)
	}
}
