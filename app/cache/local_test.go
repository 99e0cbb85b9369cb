package cache_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

// near are the options of caches that keep copies for longer than any test takes.
var near = cache.Options[string]{LocalTTL: time.Hour, TTL: time.Hour, StaleFor: time.Hour}

// counting is a loader whose values are 1, 2 and so on.
func counting() func(context.Context, string) (string, error) {
	var n atomic.Int64
	return func(context.Context, string) (string, error) { return fmt.Sprint(n.Add(1)), nil }
}

// requireLocal asks until the cache answers from its copy.
func requireLocal(t *testing.T, c *cache.Cache[string], key, value string) {
	t.Helper()
	eventually(t, func() bool {
		got, info, err := c.Get(t.Context(), key)
		require.NoError(t, err)
		return info.Local && got == value
	})
}

func TestCache_localCopies(t *testing.T) {
	t.Run("Info.Local is true exactly for hits without a round-trip", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			options := near
			options.Load = counting()
			rdb, trips := b.client(t), &gets{}
			trips.count(rdb)
			c := run(t, rdb, options)
			for i := range 300 {
				if i == 100 {
					require.NoError(t, c.Delete(t.Context(), "k"))
				}
				before := trips.n.Load()
				_, info, err := c.Get(t.Context(), "k")
				require.NoError(t, err)
				require.Equal(t, info.Local, trips.n.Load() == before)
				require.True(t, !info.Local || info.Result == cache.ResultHit)
				before = trips.n.Load()
				info = c.GetMany(t.Context(), "k", "k")[1].Info
				require.Equal(t, info.Local, trips.n.Load() == before)
				if i%100 == 99 {
					requireLocal(t, c, "k", fmt.Sprint(1+i/150))
				}
			}
			off := near
			off.Load, off.LocalTTL, off.Name = counting(), 0, "without copies"
			c = run(t, b.client(t), off)
			for range 50 {
				_, info, err := c.Get(t.Context(), "k")
				require.NoError(t, err)
				require.False(t, info.Local)
			}
		})
	})

	// A reply may be overtaken by another one.
	t.Run("a copy never goes back", func(t *testing.T) {
		t.Parallel()
		b := oneRedis(t)
		options := near
		options.Load = counting()
		writer := run(t, b.client(t), options)
		requireGet(t, writer, "k", "1", cache.ResultMiss)
		rdb, slow := b.client(t), &hold{command: "get", held: make(chan struct{}), goOn: make(chan struct{})}
		rdb.AddHook(slow)
		c := run(t, rdb, options)
		eventually(t, func() bool { return b.subscribers(t) == 2 })
		slow.armed.Store(true)
		late := get(t.Context(), inProcess{Cache: c}, "k")
		<-slow.held // Redis has answered with 1, and nothing more is known here
		// The message of the next fill is heard or not; what is read after it is newer.
		b.deafen(t)
		value, _, err := writer.Refresh(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, "2", value)
		eventually(t, func() bool { value, _, _ := c.Get(t.Context(), "k"); return value == "2" })
		close(slow.goOn)
		require.Equal(t, "1", (<-late).value, "it asked before")
		require.NoError(t, b.nodes[0].Kill())
		value, info, err := c.Get(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, "2", value, "from the copy")
		require.Contains(t, []cache.Result{cache.ResultStale, cache.ResultHit}, info.Result)
	})

	// The process's own message takes its time.
	t.Run("a copy is not served after Refresh has returned a newer value", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			through, proxies := b.proxies(t)
			rdb := b.client(t, func(s *settings) { s.Through = through })
			options := near
			options.Load = counting()
			c := run(t, rdb, options)
			requireGet(t, c, "k", "1", cache.ResultMiss)
			for i := range 20 {
				requireLocal(t, c, "k", fmt.Sprint(i+1))
				for _, proxy := range proxies {
					proxy.Delay(time.Duration(i%3) * time.Millisecond)
				}
				value, _, err := c.Refresh(t.Context(), "k")
				require.NoError(t, err)
				got, _, err := c.Get(t.Context(), "k")
				require.NoError(t, err)
				require.Equal(t, value, got)
			}
		})
	})

	t.Run("a read that finds nothing ends the copy", func(t *testing.T) {
		t.Parallel()
		b := oneRedis(t)
		options := near
		options.Load, options.LocalTTL = returns("v"), time.Millisecond
		c := run(t, b.client(t), options)
		requireGet(t, c, "k", "v", cache.ResultMiss)
		requireGet(t, c, "k", "v", cache.ResultHit)
		<-time.After(2 * options.LocalTTL) // the next read asks Redis
		tombstone := "\x01T\x00\x06\x00\x00\x00\x00\x00\x00"
		require.NoError(t, b.at(t, "k").Set(t.Context(), c.ValueKey("k"), tombstone, time.Hour).Err())
		requireGet(t, c, "k", "v", cache.ResultMiss)
	})

	t.Run("fills of other keys do not matter", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			options := near
			options.Load = returns("v")
			rdb, trips := b.client(t), &gets{}
			trips.count(rdb)
			one, other := run(t, rdb, options), run(t, b.client(t), options)
			requireGet(t, one, "hot", "v", cache.ResultMiss)
			requireLocal(t, one, "hot", "v")
			ctx, stop := context.WithCancel(t.Context())
			var filling sync.WaitGroup
			for w := range 4 {
				filling.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						_, _, _ = other.Get(ctx, fmt.Sprint(w, i))
					}
				})
			}
			trips.n.Store(0)
			for range 500 {
				requireGet(t, one, "hot", "v", cache.ResultHit)
				<-time.After(time.Millisecond)
			}
			stop()
			filling.Wait()
			require.Less(t, trips.n.Load(), int64(50))
		})
	})

	// Reads that overlap without end began before there was a feed.
	t.Run("a key under steady load becomes local", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			through, proxies := b.proxies(t)
			rdb := b.client(t, func(s *settings) { s.Through = through })
			options := near
			options.Name, options.Load = "test", returns("v")
			warm := cache.New(rdb, options)
			requireGet(t, warm, "k", "v", cache.ResultMiss)
			for _, proxy := range proxies {
				proxy.Delay(20 * time.Millisecond)
			}
			c := cache.New(rdb, options)
			ctx, stop := context.WithCancel(t.Context())
			var local atomic.Int64
			var asking sync.WaitGroup
			for range 20 {
				asking.Go(func() {
					for ctx.Err() == nil {
						_, info, _ := c.Get(ctx, "k")
						if info.Local {
							local.Add(1)
							<-time.After(time.Millisecond)
						}
					}
				})
			}
			asking.Go(func() { _ = c.Run(ctx) })
			eventually(t, func() bool { return local.Load() > 100 })
			stop()
			asking.Wait()
		})
	})

	t.Run("a new subscription ends all copies", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			options := near
			options.Load = returns("v")
			c := run(t, b.client(t), options)
			requireGet(t, c, "k", "v", cache.ResultMiss)
			requireLocal(t, c, "k", "v")
			b.deleteUnheard(t, "k") // in the test's own namespace and version
			b.cutSubscriptions(t)
			eventually(t, func() bool {
				_, info, err := c.Get(t.Context(), "k")
				return err == nil && info.Result == cache.ResultMiss
			})
		})
	})

	t.Run("LocalTTL is the limit after FLUSHALL", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			options := near
			options.Load, options.LocalTTL = counting(), 2*time.Second
			c := run(t, b.client(t), options)
			requireGet(t, c, "k", "1", cache.ResultMiss)
			requireLocal(t, c, "k", "1")
			for _, node := range b.nodes {
				require.NoError(t, connect(t, node).FlushAll(t.Context()).Err())
			}
			flushed := time.Now()
			eventually(t, func() bool { value, _, _ := c.Get(t.Context(), "k"); return value == "2" })
			require.Less(t, time.Since(flushed), options.LocalTTL+slack)
		})
	})

	t.Run("LocalSize bounds copies and subscriptions", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			options := near
			options.Load, options.LocalSize = returns("v"), 10
			c := run(t, b.client(t), options)
			const keys = 200
			for round := range 5 {
				for i := range keys {
					_, info, err := c.Get(t.Context(), fmt.Sprint(i))
					require.NoError(t, err)
					require.Equal(t, round > 0, info.Result == cache.ResultHit)
				}
			}
			local := 0
			for i := range keys {
				if _, info, _ := c.Get(t.Context(), fmt.Sprint(i)); info.Local {
					local++
				}
			}
			require.LessOrEqual(t, local, 10+keys/10, "a key that is read replaces another one")
			eventually(t, func() bool { return b.shardChannels(t) <= 10 })
		})
	})

	t.Run("while Redis fails copies are stale until TTL and StaleFor, deleted keys never", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			options := near
			options.Load, options.TTL, options.StaleFor = counting(), 2*time.Second, 2*time.Second
			c := run(t, b.client(t), options)
			filled := time.Now()
			requireGet(t, c, "{k}a", "1", cache.ResultMiss)
			requireGet(t, c, "{k}b", "2", cache.ResultMiss)
			requireLocal(t, c, "{k}a", "1")
			requireLocal(t, c, "{k}b", "2")
			require.NoError(t, c.Delete(t.Context(), "{k}b"))
			for _, node := range b.nodes {
				require.NoError(t, node.Kill())
			}
			_, info, err := c.Get(t.Context(), "{k}b")
			require.NoError(t, err)
			require.Equal(t, cache.ResultBypass, info.Result)
			var last time.Time
			eventually(t, func() bool {
				value, info, err := c.Get(t.Context(), "{k}a")
				require.NoError(t, err)
				if info.Result == cache.ResultStale {
					require.Equal(t, "1", value)
					require.False(t, info.Local)
					last = time.Now()
				}
				return info.Result == cache.ResultBypass
			})
			require.Greater(t, last.Sub(filled), 3*time.Second)
			require.Less(t, last.Sub(filled), 4*time.Second+slack)
		})
	})
}

// gets counts the GETs that reach a node.
type gets struct{ roundTrips }

func (g *gets) count(rdb redis.UniversalClient) {
	if nodes, ok := rdb.(*redis.ClusterClient); ok {
		nodes.OnNewNode(func(node *redis.Client) { node.AddHook(g) })
	} else {
		rdb.AddHook(g)
	}
}

func (g *gets) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "get" {
			g.n.Add(1)
		}
		return next(ctx, cmd)
	}
}

// hold holds the reply of one command once it is armed.
type hold struct {
	command    string
	armed      atomic.Bool
	held, goOn chan struct{}
}

func (h *hold) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *hold) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *hold) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == h.command && h.armed.CompareAndSwap(true, false) {
			close(h.held)
			<-h.goOn
		}
		return err
	}
}

// shardChannels counts the channels of copies on a Cluster.
func (b backend) shardChannels(t *testing.T) (n int) {
	t.Helper()
	for _, node := range b.nodes {
		if b.cluster != nil {
			n += len(connect(t, node).PubSubShardChannels(t.Context(), "*").Val())
		}
	}
	return n
}
