package cache_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

type (
	oldPrice struct{ Price int }
	newPrice struct{ PriceCents int }
)

// releases are an old and a new release of one service.
type releases struct {
	old   *cache.Cache[oldPrice]
	next  *cache.Cache[newPrice]
	oldL  *loader
	nextL *loader
}

func (b backend) releases(t *testing.T) releases {
	t.Helper()
	r := releases{oldL: newLoader(), nextL: newLoader()}
	r.old = run(t, b.client(t), cache.Options[oldPrice]{
		TTL: time.Hour, StaleFor: time.Hour, SoftTimeout: -1,
		Load: func(ctx context.Context, key string) (oldPrice, error) {
			_, err := r.oldL.load(ctx, key)
			return oldPrice{int(r.oldL.runs.Load())}, err
		},
	})
	r.next = run(t, b.client(t), cache.Options[newPrice]{
		TTL: time.Hour, StaleFor: time.Hour, SoftTimeout: -1, LoadTimeout: time.Minute,
		Load: func(ctx context.Context, key string) (newPrice, error) {
			_, err := r.nextL.load(ctx, key)
			return newPrice{100 * int(r.nextL.runs.Load())}, err
		},
	})
	return r
}

func TestCache_versions(t *testing.T) {
	t.Run("a release with another shape does not read old values", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			r := b.releases(t)
			r.oldL.release <- nil
			r.nextL.release <- nil
			requireGet(t, r.old, "k", oldPrice{1}, cache.ResultMiss)
			requireGet(t, r.next, "k", newPrice{100}, cache.ResultMiss)
			requireGet(t, r.old, "k", oldPrice{1}, cache.ResultHit) // nor does it replace them
			requireGet(t, r.next, "k", newPrice{100}, cache.ResultHit)
		})
	})

	t.Run("Delete by either release buries the values of both, and the stale ones", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			r := b.releases(t)
			deletes := []func(context.Context, string) error{r.old.Delete, r.next.Delete}
			for n := range 4 {
				r.oldL.release <- nil
				r.nextL.release <- nil
				requireGet(t, r.old, "k", oldPrice{n + 1}, cache.ResultMiss)
				requireGet(t, r.next, "k", newPrice{100 * (n + 1)}, cache.ResultMiss)
				if n >= 2 {
					b.ageName(t, r.old.ValueKey("k"), "k", 61*time.Minute)
					b.ageName(t, r.next.ValueKey("k"), "k", 61*time.Minute)
				}
				require.NoError(t, deletes[n%2](t.Context(), "k"))
			}
		})
	})

	t.Run("Delete refuses running fills of the other version", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			r := b.releases(t)
			type result struct {
				info cache.Info
				err  error
			}
			filled := make(chan result, 2)
			fillOld := func() {
				_, info, err := r.old.Get(context.WithoutCancel(t.Context()), "k")
				filled <- result{info, err}
			}
			fillNext := func() {
				_, info, err := r.next.Get(context.WithoutCancel(t.Context()), "k")
				filled <- result{info, err}
			}
			go fillOld()
			<-r.oldL.started
			require.NoError(t, r.next.Delete(t.Context(), "k"))
			r.oldL.release <- nil
			require.False(t, (<-filled).info.Stored)
			go fillNext()
			<-r.nextL.started
			require.NoError(t, r.old.Delete(t.Context(), "k"))
			r.nextL.release <- nil
			require.False(t, (<-filled).info.Stored)
		})
	})

	t.Run("a rollback after Delete resurrects nothing, although the old process had gone", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			process := startProcess(t, b, settings{TTL: time.Hour, StaleFor: time.Hour})
			old := process.get("k").Value
			process.Kill()
			next := run(t, b.client(t), cache.Options[newPrice]{Load: returns(newPrice{7})})
			require.NoError(t, next.Delete(t.Context(), "k"))
			back := startProcess(t, b, settings{TTL: time.Hour, StaleFor: time.Hour})
			got := back.get("k")
			require.Equal(t, cache.ResultMiss, got.Result)
			require.NotEqual(t, old, got.Value)
		})
	})

	t.Run("the registration outlives the values", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			const ttl, stale = 5 * time.Hour, 7 * time.Hour
			c := run(t, b.client(t), cache.Options[string]{TTL: ttl, StaleFor: stale, Version: "v|1", Load: returns("v")})
			requireGet(t, c, "k", "v", cache.ResultMiss)
			registered := b.registered(t)
			require.Len(t, registered, 1)
			require.Equal(t, "v|1|33000", registered[0].Member)
			require.Greater(t, time.UnixMilli(int64(registered[0].Score)), time.Now().Add(ttl+stale))
		})
	})

	t.Run("a registration that was lost is renewed", func(t *testing.T) {
		t.Parallel()
		b := oneRedis(t)
		c := run(t, b.client(t), cache.Options[string]{Load: returns("v")})
		requireGet(t, c, "k", "v", cache.ResultMiss)
		require.NoError(t, b.nodes[0].Kill())
		require.NoError(t, b.nodes[0].Restart(t.Context())) // all is lost
		require.Empty(t, b.registered(t))
		eventually(t, func() bool { return len(b.registered(t)) == 1 })
	})

	t.Run("a version that cannot be registered is not stored", func(t *testing.T) {
		t.Parallel()
		b := oneRedis(t)
		b.allow(t, "resetkeys", "~default:cache:*", "~default:lease:*")
		c := cache.New(b.client(t, asApp), cache.Options[string]{Name: "test", Load: returns("v")})
		for range 3 {
			requireGet(t, c, "k", "v", cache.ResultBypass)
		}
		require.Zero(t, b.at(t, "k").DBSize(t.Context()).Val())
		b.allow(t)
		eventually(t, func() bool { _, info, _ := c.Get(t.Context(), "k"); return info.Result == cache.ResultHit })
		require.Len(t, b.registered(t), 1)
	})

	t.Run("a version's node that is down leads to bypass", func(t *testing.T) {
		t.Parallel()
		cluster := oneCluster(t)
		registry := cluster.owner(t, "default:versions:test")
		other := cluster.keyAt(t, withoutNode(cluster.nodes, registry)[0])
		rdb := cluster.client(t)
		require.NoError(t, rdb.Ping(t.Context()).Err())
		require.NoError(t, registry.Kill())
		c := cache.New(rdb, cache.Options[string]{Name: "test", Load: returns("v")})
		requireGet(t, c, other, "v", cache.ResultBypass)
		require.Zero(t, cluster.at(t, other).Exists(t.Context(), c.ValueKey(other)).Val())
	})

	t.Run("Options.Version tells equal shapes apart", func(t *testing.T) {
		t.Parallel()
		b := oneRedis(t)
		for i := range 3 {
			options := cache.Options[string]{Load: returns(fmt.Sprint(i)), Version: []string{"", "1", "2"}[i]}
			requireGet(t, run(t, b.client(t), options), "k", fmt.Sprint(i), cache.ResultMiss)
		}
	})
}

// registered are the versions of caches named "test".
func (b backend) registered(t *testing.T) []redis.Z {
	t.Helper()
	const name = "default:versions:test"
	versions, err := b.at(t, name).ZRangeWithScores(t.Context(), name, 0, -1).Result()
	require.NoError(t, err)
	return versions
}
