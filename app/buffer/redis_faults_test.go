package buffer_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
)

// Redis is restarted, with its data, in the middle of a reading. Its hash tables are in another order then, and a
// cursor from before leads past some of the ids: who goes on with it would lose them, which this test also shows.
func TestRedisIsRestartedDuringAReading(t *testing.T) {
	t.Parallel()
	const payments = 50_000
	b, l := keptRedis(t), newLedger(t, payments)
	goneOn := map[string]bool{} // what is seen by going on with the cursor
	pages := 0
	rdb := b.client(t)
	rdb.AddHook(afterEach{func(cmd redis.Cmder) {
		scan, is := cmd.(*redis.ScanCmd)
		if !is || pages == 5 {
			return
		}
		page, cursor := scan.Val()
		note(goneOn, page)
		if pages++; pages == 5 {
			require.NotZero(t, cursor, "it is in the middle")
			require.NoError(t, b.nodes[0].Restart(t.Context()))
			b.goOn(t, scan.Args()[1].(string), cursor, goneOn)
		}
	}})
	buf := buffer.New(rdb, l.pool, buffer.Options[int64]{Name: family, Apply: mark}).Open(live)
	require.NoError(t, buf.Add(t.Context(), Payments{live, 1, payments}.ids()...))

	done, err := buf.Flush(t.Context())
	require.NoError(t, err)
	require.Equal(t, buffer.Flushed{Generations: 1, Items: payments, Applied: agree(1, payments)}, done)
	l.holds(t, 1, payments)
	require.Empty(t, b.left(t))
	t.Logf("going on with the cursor found %d of %d", len(goneOn), payments)
	require.Less(t, len(goneOn), payments)
}

// goOn notes what is seen from the cursor on.
func (b backend) goOn(t *testing.T, key string, cursor uint64, seen map[string]bool) {
	t.Helper()
	for rdb := connect(t, b.nodes[0]); cursor != 0; {
		page, next, err := rdb.SScan(t.Context(), key, cursor, "", 5_000).Result()
		require.NoError(t, err)
		note(seen, page)
		cursor = next
	}
}

func note(seen map[string]bool, members []string) {
	for _, m := range members {
		seen[m] = true
	}
}

// Redis forgets everything in the middle of a flush. Either all of the generation is applied or nothing, nobody fails
// for ever, and what is added from then on is applied.
func TestRedisLosesItsData(t *testing.T) {
	flushed := func(t *testing.T, b backend) {
		t.Helper()
		require.NoError(t, b.at(t, member).FlushAll(t.Context()).Err())
	}
	restarted := func(t *testing.T, b backend) {
		t.Helper()
		require.NoError(t, b.owner(t, member).Restart(t.Context()))
		if b.cluster != nil {
			require.NoError(t, b.cluster.Ready(t.Context()))
		}
	}
	for how, lose := range map[string]func(*testing.T, backend){"flushed": flushed, "restarted": restarted} {
		for point, first := range map[string]int64{"cut": payments/2 + 1, "in transaction": 1} {
			t.Run(fmt.Sprintf("%s when %s", how, point), func(t *testing.T) {
				onEveryBackend(t, func(t *testing.T, b backend) {
					l := newLedger(t, payments)
					w := startProcess(t, b, l, settings{Lease: lease, StopAt: point})
					w.add(live, 1, payments/2)
					flush := w.beginFlush()
					w.reached()
					lose(t, b)
					w.goOn()
					err := (<-flush).err
					if point == "cut" {
						require.Error(t, err, "what its caller wanted to be applied is gone")
					}
					require.Equal(t, agree(first, payments/2), l.marked(t, 1, payments/2))

					eventually(t, func() bool { return w.Try("Flush", live, &Flush{}) == nil })
					eventually(t, func() bool { return w.Try("Add", Payments{live, payments/2 + 1, payments}, new(string)) == nil })
					w.flush(live)
					l.holds(t, first, payments)
					require.Empty(t, b.left(t))
				})
			})
		}
	}
}

// Redis forgets its scripts, by SCRIPT FLUSH or a fail-over, and no connection notices. Before each step here.
func TestRedisForgetsItsScripts(t *testing.T) {
	onEveryBackend(t, func(t *testing.T, b backend) {
		l, broken := newLedger(t, 25_000), true
		var steps []string
		forget := func(step string) {
			steps = append(steps, step)
			for _, node := range b.nodes {
				require.NoError(t, connect(t, node).ScriptFlush(t.Context()).Err())
			}
		}
		buf := buffer.New(b.client(t), l.pool, buffer.Options[int64]{
			Name: family, Lease: lease,
			Apply: func(ctx context.Context, tx pgx.Tx, g buffer.Generation, ids []int64) (int64, error) {
				if broken {
					return 0, fmt.Errorf("not now")
				}
				return mark(ctx, tx, g, ids)
			},
		}.OnReached(forget)).Open(live)
		forget("begun")
		require.NoError(t, buf.Add(t.Context(), Payments{live, 1, 25_000}.ids()...))
		_, err := buf.Flush(t.Context())
		require.ErrorContains(t, err, "not now")
		broken = false
		_, err = buf.Flush(t.Context())
		require.NoError(t, err)
		require.Equal(t, append([]string{"begun", "added"}, buffer.Points...), steps, "25,000 are two pipelines")
		l.holds(t, 1, 25_000)
		require.Empty(t, b.left(t))
	})
}

// Redis is full of what may not be evicted. It refuses to take more, and says so; what it has is flushed, although it
// is so full that it evicts each lease at once, and that makes room.
func TestAFullRedis(t *testing.T) {
	onEveryBackend(t, func(t *testing.T, b backend) {
		const atOnce, enough = 3_000, 45_000
		l, rdb := newLedger(t, enough), b.at(t, member)
		limit := func(bytes int) {
			for _, node := range b.nodes {
				require.NoError(t, connect(t, node).ConfigSet(t.Context(), "maxmemory", strconv.Itoa(bytes)).Err())
			}
		}
		used := func() int {
			memory, err := rdb.InfoMap(t.Context(), "memory").Result()
			require.NoError(t, err)
			bytes, err := strconv.Atoi(memory["Memory"]["used_memory"])
			require.NoError(t, err)
			return bytes
		}
		for _, node := range b.nodes {
			require.NoError(t, connect(t, node).ConfigSet(t.Context(), "maxmemory-policy", "volatile-lru").Err())
		}
		s := settings{Lease: time.Hour, FlushAge: often}
		w := startProcess(t, b, l, s)
		w.add(live, 1, atOnce)
		roomy := used() + 1<<20
		limit(roomy)
		last, err := int64(atOnce), error(nil)
		for ; err == nil && last < enough; last += atOnce {
			err = w.Try("Add", Payments{live, last + 1, last + atOnce}, new(string))
		}
		require.ErrorContains(t, err, "OOM")
		accepted := last - atOnce
		require.Equal(t, map[string]float64{"added": float64(accepted), "refused": atOnce},
			w.Metric(buffer.MetricAdds, "outcome"))
		require.GreaterOrEqual(t, w.stats().Open, accepted)

		limit(1) // for Redis it is as full, and for us it stays so
		b.abandon(t, l, s, 0)
		s.Run = true
		startProcess(t, b, l, s)
		b.empty(t, member)
		l.settled(t, 1, accepted)
		require.Error(t, w.Try("Add", Payments{live, accepted + 1, last}, new(string)))

		limit(roomy)
		eventually(t, func() bool { // the room is made in the background
			return w.Try("Add", Payments{live, accepted + 1, last}, new(string)) == nil
		})
		w.flush(live)
		l.holds(t, 1, last)
		require.Empty(t, b.left(t))
	})
}

// afterEach looks at what Redis has answered.
type afterEach struct {
	look func(redis.Cmder)
}

func (afterEach) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h afterEach) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		h.look(cmd)
		return err
	}
}

func (afterEach) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
