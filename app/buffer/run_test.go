package buffer_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
)

func TestAddsDuringAFlushAreInTheNextGeneration(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := newLedger(t, payments)
		flusher := startProcess(t, b, l, settings{StopAt: "in transaction"})
		adder := startProcess(t, b, l, settings{})
		adder.add(live, 1, 600)
		flush := flusher.beginFlush()
		flusher.reached()
		adder.add(live, 501, payments) // some of them again
		holds := adder.stats()
		require.EqualValues(t, 500, holds.Open)
		require.EqualValues(t, 1_100, holds.Depth)
		require.Equal(t, 1, holds.Generations)
		flusher.goOn()
		f := <-flush
		require.NoError(t, f.err)
		require.Equal(t, buffer.Flushed{Generations: 1, Items: 600, Applied: agree(1, 600)}, f.Flushed)
		l.holds(t, 1, 600)

		done := adder.flush(live).Flushed
		require.Equal(t, buffer.Flushed{Generations: 1, Items: 500, Applied: agree(601, payments)}, done)
		require.Equal(t, 2, l.generations(t))
		l.holds(t, 1, payments)
	})
}

func TestSizeFlushesAtOnce(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := newLedger(t, payments)
		w := startProcess(t, b, l, settings{FlushSize: payments, FlushAge: time.Hour, Run: true, Continuous: []string{live}})
		w.add(live, 1, payments-1)
		require.EqualValues(t, payments-1, w.stats().Open)
		w.add(live, payments, payments)
		l.settled(t, 1, payments)
		require.Equal(t, 1, l.generations(t))
	})
}

func TestAgeFlushesAndNotBefore(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		const age = time.Second
		l := newLedger(t, payments)
		w := startProcess(t, b, l, settings{FlushAge: age, Run: true, Continuous: []string{live}})
		began := time.Now()
		w.add(live, 1, payments)
		l.settled(t, 1, payments)
		var marked time.Time
		require.NoError(t, l.pool.QueryRow(t.Context(), "SELECT min(marked_at) FROM marks").Scan(&marked))
		require.GreaterOrEqual(t, marked.Sub(began), age)
	})
}

// Each round finds so much open that it must cut. What another has left must have its turn nevertheless.
func TestRecoveryIsNotPutOffBySize(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		const size = 100
		l := newLedger(t, payments)
		b.abandon(t, l, settings{Lease: lease}, size)
		b.unleased(t, member)
		w := startProcess(t, b, l, settings{FlushSize: size, FlushAge: time.Hour, Run: true, Continuous: []string{live}})
		w.add(live, size+1, 2*size)
		l.settled(t, 1, 2*size)
		b.empty(t, member)
		l.holds(t, 1, 2*size)
	})
}

func TestManyWorkersOverOneBuffer(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		const payments, atOnce = 20_000, 100
		l := newLedger(t, payments)
		s := settings{FlushSize: 2_000, FlushAge: often, Run: true, Continuous: []string{live}}
		workers := []*process{startProcess(t, b, l, s), startProcess(t, b, l, s), startProcess(t, b, l, s)}
		adders := []*process{startProcess(t, b, l, settings{}), startProcess(t, b, l, settings{}), workers[0]}
		errs := make(chan error, len(adders))
		for i, adder := range adders {
			first := int64(i) * payments / 4 // each half of them, and so some of them twice
			go func() {
				var err error
				for id := first; id < first+payments/2 && err == nil; id += atOnce {
					err = adder.Try("Add", Payments{live, id + 1, id + atOnce}, new(string))
				}
				errs <- err
			}()
		}
		for range adders {
			require.NoError(t, <-errs)
		}
		l.settled(t, 1, payments)
		b.empty(t, member)
		l.holds(t, 1, payments)

		for _, w := range workers {
			eventually(t, func() bool { return w.Metric(buffer.MetricDepth, "buffer")[family] == 0 })
		}
		committed := func() (n int) {
			for _, w := range workers {
				n += int(w.flushes()["committed cut"] + w.flushes()["committed recovered"])
			}
			return n
		}
		eventually(t, func() bool { return committed() >= l.generations(t) }) // they count once Redis is empty
		require.Equal(t, l.generations(t), committed())
	})
}

// An entry in the index whose buffer is empty goes after a while.
func TestAnEmptyBufferIsForgotten(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l, rdb := newLedger(t, payments), b.client(t)
		w := startProcess(t, b, l, settings{FlushAge: often, Lease: lease, Run: true})
		w.add("done", 1, 10)
		w.flush("done")
		w.add("full", 11, 20)
		for _, name := range []string{"done", "full", live} { // a worker has begun to add to the last
			require.NoError(t, rdb.ZAdd(t.Context(), index, redis.Z{Score: longAgo(), Member: family + ":" + name}).Err())
		}
		require.NoError(t, rdb.ZAdd(t.Context(), index, redis.Z{Score: longAgo(), Member: "other:done"}).Err())
		eventually(t, func() bool { return len(indexed(t, rdb)) == 2 })
		require.ElementsMatch(t, []string{"other:done", family + ":full"}, indexed(t, rdb))
	})
}

// longAgo is a time of an addition after which a buffer that is empty may be forgotten.
func longAgo() float64 { return float64(time.Now().Add(-time.Hour).UnixMilli()) }

func indexed(t *testing.T, rdb redis.UniversalClient) []string {
	t.Helper()
	members, err := rdb.ZRange(t.Context(), index, 0, -1).Result()
	require.NoError(t, err)
	return members
}

// A worker sees that a buffer is empty, and before it takes it from the index another adds to it.
func TestABufferThatIsAddedToIsNotForgotten(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l, adder := newLedger(t, payments), newBuffer(t, b, newLedger(t, 1))
		forgets := make(chan error, 1)
		rdb := b.client(t)
		rdb.AddHook(beforeEach{func(_ context.Context, cmd redis.Cmder) {
			if cmd.Name() == "evalsha" && cmd.Args()[1] == buffer.Scripts()["buffer.forget"].Hash() {
				forgets <- adder.Add(context.WithoutCancel(t.Context()), Payments{live, 1, payments}.ids()...)
			}
		}})
		buffers := buffer.New(rdb, l.pool, buffer.Options[int64]{Name: family, Apply: mark, FlushAge: often})
		require.NoError(t, rdb.ZAdd(t.Context(), index, redis.Z{Score: longAgo(), Member: member}).Err())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- buffers.Run(ctx) }()
		require.NoError(t, <-forgets)
		stop()
		require.NoError(t, <-ended)
		require.NoError(t, buffers.Shutdown(t.Context()))
		require.Equal(t, []string{member}, indexed(t, rdb))
	})
}

// beforeEach does something before a command goes to Redis.
type beforeEach struct {
	do func(context.Context, redis.Cmder)
}

func (beforeEach) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h beforeEach) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.do(ctx, cmd)
		return next(ctx, cmd)
	}
}

func (beforeEach) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
