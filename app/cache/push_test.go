package cache_test

import (
	"bytes"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest"
)

// pushPath is the way of messages to one client. While it is hung nothing arrives on subscriptions, and nothing says
// so.
type pushPath struct{ hung atomic.Bool }

func (p *pushPath) through(s *settings) {
	s.dialed = func(conn net.Conn) net.Conn { return &pushConn{Conn: conn, path: p} }
}

type pushConn struct {
	net.Conn
	path       *pushPath
	subscribed atomic.Bool
}

func (c *pushConn) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("subscribe")) {
		c.subscribed.Store(true)
	}
	return c.Conn.Write(b)
}

func (c *pushConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.subscribed.Load() || !c.path.hung.Load() {
			return n, err
		}
	}
}

// trusted is how long at most a copy is a hit after the push has failed unnoticed.
const trusted = 1500 * time.Millisecond

func TestCache_pushPath(t *testing.T) {
	t.Run("copies are no hits when no heartbeat arrives", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			options, path := near, &pushPath{}
			options.Load = counting()
			deaf, other := run(t, b.client(t, path.through), options), run(t, b.client(t), options)
			requireGet(t, other, "k", "1", cache.ResultMiss)
			requireLocal(t, deaf, "k", "1")
			path.hung.Store(true)
			hung := time.Now()
			<-time.After(100 * time.Millisecond)
			require.NoError(t, other.Delete(t.Context(), "k"))
			requireGet(t, deaf, "k", "1", cache.ResultHit) // within what the documentation allows
			eventually(t, func() bool { value, _, err := deaf.Get(t.Context(), "k"); return err == nil && value != "1" })
			require.Less(t, time.Since(hung), trusted+slack)
			for range 20 {
				_, info, err := deaf.Get(t.Context(), "k")
				require.NoError(t, err)
				require.False(t, info.Local)
			}
			path.hung.Store(false)
			value, _, err := deaf.Get(t.Context(), "k")
			require.NoError(t, err)
			requireLocal(t, deaf, "k", value)
		})
	})

	t.Run("heartbeats keep copies hits in an idle cache", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			options := near
			options.Load = returns("v")
			c := run(t, b.client(t), options)
			requireGet(t, c, "k", "v", cache.ResultMiss)
			requireLocal(t, c, "k", "v")
			for range 30 {
				<-time.After(100 * time.Millisecond)
				_, info, err := c.Get(t.Context(), "k")
				require.NoError(t, err)
				require.True(t, info.Local)
			}
		})
	})

	t.Run("a subscription with a long round-trip is kept", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			through, proxies := b.proxies(t)
			options := near
			options.Load = returns("v")
			c := run(t, b.client(t, func(s *settings) { s.Through = through }), options)
			requireGet(t, c, "k", "v", cache.ResultMiss)
			for _, proxy := range proxies {
				proxy.Delay(400 * time.Millisecond)
			}
			b.cutSubscriptions(t)
			<-time.After(100 * time.Millisecond)
			requireLocal(t, c, "k", "v")
		})
	})
}

// keyAt returns a key that the node keeps.
func (b backend) keyAt(t *testing.T, node *servicetest.RedisServer, not ...string) string {
	t.Helper()
	for i := range 1000 {
		key := string(rune('a'+i%26)) + string(rune('a'+i/26))
		if b.owner(t, key) == node && (len(not) == 0 || not[0] != key) {
			return key
		}
	}
	require.Fail(t, "no key at that node")
	return ""
}

func TestCache_localCopiesOnACluster(t *testing.T) {
	// Other masters go on meanwhile, and their subscriptions too.
	t.Run("copies of a master that is away stay stale", func(t *testing.T) {
		t.Parallel()
		cluster := servicetest.RedisCluster(t)
		b := backend{nodes: cluster.Nodes, cluster: cluster}
		options := near
		options.Load = returns("v")
		c := run(t, b.client(t), options)
		gone, there := b.keyAt(t, b.nodes[0]), b.keyAt(t, b.nodes[1])
		another := b.keyAt(t, b.nodes[1], there)
		for _, key := range []string{gone, there} {
			requireGet(t, c, key, "v", cache.ResultMiss)
			requireLocal(t, c, key, "v")
		}
		require.NoError(t, b.nodes[0].Kill())
		before := backend{nodes: b.nodes[1:2], cluster: b.cluster}.shardChannels(t)
		eventually(t, func() bool { // a new subscription is confirmed by another master
			_, _, _ = c.Get(t.Context(), another)
			return backend{nodes: b.nodes[1:2], cluster: b.cluster}.shardChannels(t) > before
		})
		<-time.After(100 * time.Millisecond)
		requireGet(t, c, gone, "v", cache.ResultStale)
	})

	t.Run("after a failover copies are hits again and deletions are heard", func(t *testing.T) {
		t.Parallel()
		cluster := servicetest.RedisClusterWithReplicas(t)
		b := backend{nodes: cluster.Nodes, cluster: cluster}
		options := near
		options.Load = counting()
		one, other := run(t, b.client(t), options), run(t, b.client(t), options)
		master := b.owner(t, "k")
		requireGet(t, one, "k", "1", cache.ResultMiss)
		requireLocal(t, one, "k", "1")
		requireLocal(t, other, "k", "1")
		require.NoError(t, cluster.FailOver(t.Context(), master))
		b.nodes = withoutNode(b.nodes, master)
		eventually(t, func() bool { return one.Delete(t.Context(), "k") == nil })
		deleted := time.Now()
		eventually(t, func() bool { value, _, err := other.Get(t.Context(), "k"); return err == nil && value != "1" })
		require.Less(t, time.Since(deleted), trusted+slack)
		value, _, err := other.Get(t.Context(), "k")
		require.NoError(t, err)
		eventually(t, func() bool { _, info, _ := other.Get(t.Context(), "k"); return info.Local })
		require.NoError(t, one.Delete(t.Context(), "k"))
		eventually(t, func() bool { got, _, err := other.Get(t.Context(), "k"); return err == nil && got != value })
	})

	// A master that hangs answers neither reads nor heartbeats. Its replica takes over, and deletions are made there.
	t.Run("a master that hangs is not trusted", func(t *testing.T) {
		t.Parallel()
		cluster := servicetest.RedisClusterWithReplicas(t)
		b := backend{nodes: cluster.Nodes, cluster: cluster}
		options := near
		options.Load = returns("v")
		c := run(t, b.client(t, func(s *settings) { s.RedisTimeout = redisTimeout }), options)
		master := b.owner(t, "k")
		requireGet(t, c, "k", "v", cache.ResultMiss)
		requireLocal(t, c, "k", "v")
		require.NoError(t, master.Pause())
		paused := time.Now()
		last := paused
		eventually(t, func() bool {
			_, info, _ := c.Get(t.Context(), "k")
			if info.Local {
				last = time.Now()
			}
			return !info.Local
		})
		require.Less(t, last.Sub(paused), trusted+slack)
		_, info, err := c.Get(t.Context(), "k")
		require.NoError(t, err)
		require.Contains(t, []cache.Result{cache.ResultStale, cache.ResultHit}, info.Result)
		eventually(t, func() bool { _, info, _ := c.Get(t.Context(), "k"); return info.Local }) // from its successor
		require.NoError(t, master.Resume())
	})

	t.Run("a slot that moves takes its copies along", func(t *testing.T) {
		t.Parallel()
		cluster := servicetest.RedisCluster(t)
		b := backend{nodes: cluster.Nodes, cluster: cluster}
		options := near
		options.Load = counting()
		one, other := run(t, b.client(t), options), run(t, b.client(t), options)
		requireGet(t, one, "k", "1", cache.ResultMiss)
		requireLocal(t, other, "k", "1")
		from := b.owner(t, "k")
		to := withoutNode(b.nodes, from)[0]
		require.NoError(t, cluster.Migrate(t.Context(), "k", to))
		require.NoError(t, one.Delete(t.Context(), "k"))
		deleted := time.Now()
		eventually(t, func() bool { value, _, err := other.Get(t.Context(), "k"); return err == nil && value == "2" })
		require.Less(t, time.Since(deleted), trusted+slack)
		requireLocal(t, other, "k", "2")
		require.NoError(t, one.Delete(t.Context(), "k"))
		eventually(t, func() bool { value, _, err := other.Get(t.Context(), "k"); return err == nil && value == "3" })
	})
}

func withoutNode(nodes []*servicetest.RedisServer, gone *servicetest.RedisServer) (rest []*servicetest.RedisServer) {
	for _, node := range nodes {
		if node != gone {
			rest = append(rest, node)
		}
	}
	return rest
}
