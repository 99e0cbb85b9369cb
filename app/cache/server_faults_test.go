package cache_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest"
)

func TestCache_redisIsFull(t *testing.T) {
	full := func(t *testing.T, b backend, maxmemory string) {
		t.Helper()
		for _, node := range b.nodes {
			require.NoError(t, connect(t, node).ConfigSet(t.Context(), "maxmemory", maxmemory).Err())
		}
	}
	t.Run("Delete deletes and refuses a fill in flight", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			l := newLoader()
			c := run(t, b.client(t), cache.Options[string]{Load: l.load, LocalTTL: time.Hour})
			l.release <- nil
			requireGet(t, c, "stored", "stored #1", cache.ResultMiss)
			<-l.started
			filling := get(t.Context(), inProcess{Cache: c}, "filling")
			<-l.started
			full(t, b, "1")
			require.NoError(t, c.Delete(t.Context(), "stored"))
			require.NoError(t, c.Delete(t.Context(), "filling"))
			require.EqualValues(t, tombstoneSize, b.at(t, "stored").StrLen(t.Context(), c.ValueKey("stored")).Val())
			full(t, b, "0")
			l.release <- nil
			require.False(t, (<-filling).info.Stored)
			l.release <- nil
			requireGet(t, c, "stored", "stored #3", cache.ResultMiss)
			l.release <- nil
			requireGet(t, c, "filling", "filling #4", cache.ResultMiss)
		})
	})

	t.Run("a commit that is refused releases its lease", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			l := newLoader()
			options := cache.Options[string]{Load: l.load, Lease: time.Hour, LoadTimeout: time.Hour}
			c, other := run(t, b.client(t), options), run(t, b.client(t), options)
			filling := get(t.Context(), inProcess{Cache: c}, "k")
			<-l.started
			full(t, b, "1")
			l.release <- nil
			got := <-filling
			require.NoError(t, got.err, "its callers get what was computed")
			require.False(t, got.info.Stored)
			full(t, b, "0")
			l.release <- nil
			requireGet(t, other, "k", "k #2", cache.ResultMiss) // and has not waited for an hour
		})
	})
}

func TestCache_redisRefusesWrites(t *testing.T) {
	for name, refuse := range map[string]func(t *testing.T, node *redis.Client){
		"READONLY": func(t *testing.T, node *redis.Client) {
			t.Helper()
			master := servicetest.Redis(t)
			require.NoError(t, node.ReplicaOf(t.Context(), "127.0.0.1", strconv.Itoa(master.Port)).Err())
		},
		"MISCONF": func(t *testing.T, node *redis.Client) {
			t.Helper()
			dir := node.ConfigGet(t.Context(), "dir").Val()["dir"]
			require.NoError(t, os.Mkdir(filepath.Join(dir, "dump.rdb"), 0o700)) // a snapshot cannot take its place
			require.NoError(t, node.ConfigSet(t.Context(), "save", "3600 1").Err())
			require.NoError(t, node.BgSave(t.Context()).Err())
			eventually(t, func() bool {
				return strings.Contains(node.Info(t.Context(), "persistence").Val(), "rdb_last_bgsave_status:err")
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := oneRedis(t)
			l := newLoader()
			c := run(t, b.client(t), cache.Options[string]{Load: l.load, TTL: time.Hour})
			l.release <- nil
			requireGet(t, c, "kept", "kept #1", cache.ResultMiss)
			<-l.started
			filling := get(t.Context(), inProcess{Cache: c}, "k")
			<-l.started
			refuse(t, b.at(t, "k"))
			l.release <- nil
			got := <-filling
			require.NoError(t, got.err)
			require.Equal(t, "k #2", got.value)
			require.False(t, got.info.Stored)
			require.Error(t, c.Delete(t.Context(), "k"), "it was not deleted")
			l.release <- nil
			requireGet(t, c, "another", "another #3", cache.ResultBypass)
		})
	}
}

func TestCache_scriptsAreFlushed(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := newLoader()
		c := run(t, b.client(t), cache.Options[string]{Load: l.load})
		filling := get(t.Context(), inProcess{Cache: c}, "k")
		<-l.started
		for _, node := range b.nodes {
			require.NoError(t, connect(t, node).ScriptFlush(t.Context()).Err())
		}
		l.release <- nil
		require.True(t, (<-filling).info.Stored)
		requireGet(t, c, "k", "k #1", cache.ResultHit)
		for _, node := range b.nodes {
			require.NoError(t, connect(t, node).ScriptFlush(t.Context()).Err())
		}
		require.NoError(t, c.Delete(t.Context(), "k"))
	})
}

func TestCache_tooManyClients(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	admin := b.at(t, "k")
	require.NoError(t, admin.Ping(t.Context()).Err())
	require.NoError(t, admin.ConfigSet(t.Context(), "maxclients", "2").Err())
	connect(t, b.nodes[0]).Ping(t.Context())
	c := run(t, b.client(t), cache.Options[string]{Load: returns("v")})
	for range 10 {
		requireGet(t, c, "k", "v", cache.ResultBypass)
	}
	require.NoError(t, admin.ConfigSet(t.Context(), "maxclients", "1000").Err())
	eventually(t, func() bool { _, info, _ := c.Get(t.Context(), "k"); return info.Result == cache.ResultHit })
	eventually(t, func() bool { return b.subscribers(t) == 1 })
}

// Redis closes a subscription whose reader is too slow. What was published meanwhile is lost.
func TestCache_subscriptionIsClosedByItsOutputLimit(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	options := near
	options.Load = counting()
	c := run(t, b.client(t), options)
	requireGet(t, c, "k", "1", cache.ResultMiss)
	requireLocal(t, c, "k", "1")
	admin := b.at(t, "k")
	require.NoError(t, admin.ConfigSet(t.Context(), "client-output-buffer-limit", "pubsub 1 1 1").Err())
	b.deleteUnheard(t, "k")
	require.NoError(t, admin.Publish(t.Context(), channel, strings.Repeat("x", 1<<20)).Err())
	limited := time.Now()
	eventually(t, func() bool { value, _, err := c.Get(t.Context(), "k"); return err == nil && value == "2" })
	require.Less(t, time.Since(limited), trusted+slack)
	require.NoError(t, admin.ConfigSet(t.Context(), "client-output-buffer-limit", "pubsub 0 0 0").Err())
	requireLocal(t, c, "k", "2")
}

func TestCache_slotMovesDuringAFill(t *testing.T) {
	t.Parallel()
	b := oneCluster(t)
	l := newLoader()
	options := cache.Options[string]{Load: l.load, Lease: 2 * time.Second, TTL: time.Hour}
	c, other := run(t, b.client(t), options), run(t, b.client(t), options)
	l.release <- nil
	requireGet(t, c, "k", "k #1", cache.ResultMiss)
	<-l.started
	refreshed := make(chan answer, 1)
	go func() {
		value, info, err := c.Refresh(context.WithoutCancel(t.Context()), "k")
		refreshed <- answer{value, info, err}
	}()
	<-l.started
	hits := func(value string) {
		t.Helper()
		for _, reader := range []*cache.Cache[string]{c, other} {
			requireGet(t, reader, "k", value, cache.ResultHit)
			require.Equal(t, cache.ResultHit, reader.GetMany(t.Context(), "k")[0].Info.Result)
		}
	}
	to := withoutNode(b.nodes, b.owner(t, "k"))[0]
	require.NoError(t, b.cluster.Migrate(t.Context(), "k", to, func() error { // the slot's keys are elsewhere, by ASK
		hits("k #1")
		l.release <- nil
		got := <-refreshed
		require.Equal(t, []any{"k #2", true, nil}, []any{got.value, got.info.Stored, got.err})
		hits("k #2")
		return nil
	}))
	hits("k #2") // by MOVED
	require.NoError(t, c.Delete(t.Context(), "k"))
	l.release <- nil
	requireGet(t, other, "k", "k #3", cache.ResultMiss)
	require.EqualValues(t, 3, l.runs.Load())
}

// A script needs the value's key and the lease's. While a slot moves, Redis refuses it where only one of them exists.
func TestCache_slotMovesBeforeAFill(t *testing.T) {
	t.Parallel()
	b := oneCluster(t)
	c := run(t, b.client(t), cache.Options[string]{Load: returns("v")})
	to := withoutNode(b.nodes, b.owner(t, "k"))[0]
	require.NoError(t, b.cluster.Migrate(t.Context(), "k", to, func() error {
		value, _, err := c.Get(t.Context(), "k")
		require.Equal(t, "v", value)
		return err
	}))
	eventually(t, func() bool {
		_, info, err := c.Get(t.Context(), "k")
		return err == nil && info.Result == cache.ResultHit
	})
}
