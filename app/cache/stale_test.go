package cache_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

// staleAfter are a loader and a cache of which "k" is stale, and was filled in that time.
func (b backend) stale(t *testing.T, fill, soft time.Duration) (l *loader, c *cache.Cache[string]) {
	t.Helper()
	l = newLoader()
	c = run(t, b.client(t), cache.Options[string]{
		Load: l.load, TTL: time.Hour, StaleFor: time.Hour, SoftTimeout: soft, Lease: time.Minute, Cooldown: time.Hour,
	})
	first := get(t.Context(), inProcess{Cache: c}, "k")
	<-l.started
	<-time.After(fill) // the work takes this long
	l.release <- nil
	require.Equal(t, cache.ResultMiss, (<-first).info.Result)
	b.age(t, "k", 61*time.Minute)
	return l, c
}

func TestCache_stale(t *testing.T) {
	t.Run("is served at once where a fill takes longer than the soft timeout", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			const soft = 2 * time.Second
			_, c := b.stale(t, soft+100*time.Millisecond, soft)
			for range 5 {
				asked := time.Now()
				requireGet(t, c, "k", "k #1", cache.ResultStale)
				require.Less(t, time.Since(asked), soft)
			}
		})
	})

	t.Run("is not served where a fill ends within the soft timeout", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			l, c := b.stale(t, 10*time.Millisecond, time.Minute)
			asked := get(t.Context(), inProcess{Cache: c}, "k")
			<-l.started
			l.release <- nil
			require.Equal(t, "k #2", (<-asked).value)
		})
	})

	t.Run("is served after the soft timeout where a fill takes longer this time", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			const soft = 300 * time.Millisecond
			_, c := b.stale(t, 0, soft)
			asked := time.Now()
			requireGet(t, c, "k", "k #1", cache.ResultStale)
			require.GreaterOrEqual(t, time.Since(asked), soft)
		})
	})
}

// While another replica fills, or none may, hits ask no script.
func TestCache_hitsDuringAFillElsewhere(t *testing.T) {
	const hits = 200
	t.Run("early hits are plain GETs while another replica refreshes", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			s := settings{Held: true, TTL: time.Hour, Lease: time.Minute, LoadTimeout: time.Hour}
			filler, other := startProcess(t, b, s), startProcess(t, b, s)
			filler.release(Load{Value: "v"})
			filler.get("k")
			filler.started()
			b.age(t, "k", 58*time.Minute)
			require.Equal(t, cache.ResultHit, filler.get("k").Result) // begins the refresh
			filler.started()
			require.Equal(t, cache.ResultHit, other.get("k").Result)
			node := b.at(t, "k")
			b.settle(t, "k")
			before := calls(t, node, "evalsha")
			for range hits {
				require.Equal(t, cache.ResultHit, other.get("k").Result)
			}
			require.Less(t, calls(t, node, "evalsha")-before, 10)
			filler.release(Load{Value: "v2"})
			eventually(t, func() bool { return other.get("k").Value == "v2" })
			// The message ended what is remembered: the next refresh is this replica's.
			b.age(t, "k", 58*time.Minute)
			require.Equal(t, cache.ResultHit, other.get("k").Result)
			other.started()
		})
	})

	t.Run("stale and early hits are plain GETs in a cooldown, until a message", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			l, c := b.stale(t, 0, -1)
			l.release <- errors.New("broken")
			requireGet(t, c, "k", "k #1", cache.ResultStale)
			<-l.started
			node := b.at(t, "k")
			eventually(t, func() bool { return node.GetRange(t.Context(), cache.LeaseKey("k"), 0, 0).Val() == "!" })
			requireGet(t, c, "k", "k #1", cache.ResultStale)
			b.settle(t, "k")
			before := calls(t, node, "evalsha")
			for range hits {
				requireGet(t, c, "k", "k #1", cache.ResultStale)
			}
			require.Less(t, calls(t, node, "evalsha")-before, 10)
			b.age(t, "k", -60*time.Minute) // fresh again, and near its end
			b.age(t, "k", 57*time.Minute)
			for range hits {
				requireGet(t, c, "k", "k #1", cache.ResultHit)
			}
			require.Less(t, calls(t, node, "evalsha")-before, 10)
			require.EqualValues(t, 2, l.runs.Load())

			release := cache.Scripts()["cache.fail"]
			version := c.ValueKey("k")[len("default:cache:test:") : len(c.ValueKey("k"))-len(":{k}")]
			require.NoError(t, release.Run(context.WithoutCancel(t.Context()), node, []string{cache.LeaseKey("k")},
				channel, "", "failed "+version+" k", node.Get(t.Context(), cache.LeaseKey("k")).Val(), "", 0).Err())
			eventually(t, func() bool {
				requireGet(t, c, "k", "k #1", cache.ResultHit)
				return l.runs.Load() == 3
			})
		})
	})
}

// settle returns once no script has run for a moment at the key's node.
func (b backend) settle(t *testing.T, key string) {
	t.Helper()
	node, last := b.at(t, key), -1
	require.Eventually(t, func() bool {
		now := calls(t, node, "evalsha")
		defer func() { last = now }()
		return now == last
	}, 20*time.Second, 100*time.Millisecond)
}
