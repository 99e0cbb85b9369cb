package servicetest_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

func TestRedisTLS(t *testing.T) {
	t.Parallel()
	server := servicetest.RedisTLS(t)
	require.NoError(t, connect(t, server).Ping(t.Context()).Err(), "the certificate is verified")

	options, err := redis.ParseURL(server.URL())
	require.NoError(t, err)
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	require.NoError(t, client.Ping(t.Context()).Err())
	require.FileExists(t, server.CAFile())

	inClear := server.Options()
	inClear.TLSConfig = nil
	refused := redis.NewClient(inClear)
	t.Cleanup(func() { _ = refused.Close() })
	require.Error(t, refused.Ping(t.Context()).Err())

	require.NoError(t, server.Restart(t.Context()))
	require.NoError(t, connect(t, server).Ping(t.Context()).Err())
}

func TestRedisSocket(t *testing.T) {
	t.Parallel()
	server := servicetest.RedisSocket(t)
	require.NoError(t, connect(t, server).Ping(t.Context()).Err())
	options, err := redis.ParseURL(server.URL())
	require.NoError(t, err)
	require.Equal(t, "unix", options.Network)
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	require.NoError(t, client.Ping(t.Context()).Err())
}

func TestRedisClusterTLS(t *testing.T) {
	t.Parallel()
	cluster := servicetest.RedisClusterTLS(t)
	client := redis.NewClusterClient(cluster.Options())
	t.Cleanup(func() { _ = client.Close() })
	for _, key := range []string{"a", "b", "c"} {
		require.NoError(t, client.Set(t.Context(), key, "value", 0).Err(), "the certificate is verified")
	}
	require.True(t, strings.HasPrefix(cluster.URL(), "rediss+cluster://"))
}

func TestCluster_FailOver(t *testing.T) {
	t.Parallel()
	cluster := servicetest.RedisClusterWithReplicas(t)
	client := redis.NewClusterClient(cluster.Options())
	t.Cleanup(func() { _ = client.Close() })
	require.NoError(t, client.Set(t.Context(), "a", "value", 0).Err())
	first, err := cluster.Owner(t.Context(), "a")
	require.NoError(t, err)
	replicated, err := connect(t, first).Wait(t.Context(), 1, 5*time.Second).Result()
	require.NoError(t, err)
	require.EqualValues(t, 1, replicated)

	require.NoError(t, cluster.FailOver(bounded(t), first))
	second, err := cluster.Owner(t.Context(), "a")
	require.NoError(t, err)
	require.NotEqual(t, first.Port, second.Port)
	value, err := connect(t, second).Get(t.Context(), "a").Result()
	require.NoError(t, err)
	require.Equal(t, "value", value)
	now, err := cluster.Masters(t.Context())
	require.NoError(t, err)
	require.Len(t, now, 3)
	require.NotContains(t, now, first)

	require.NoError(t, first.Restart(bounded(t)))
	require.NoError(t, cluster.Ready(bounded(t)))
	require.Eventually(t, func() bool {
		info, err := connect(t, first).Info(t.Context(), "replication").Result()
		return err == nil && strings.Contains(info, "role:slave") && strings.Contains(info, "master_link_status:up")
	}, 20*time.Second, 50*time.Millisecond, "what comes back is a replica")
}

func TestCluster_Migrate(t *testing.T) {
	t.Parallel()
	cluster := servicetest.RedisCluster(t)
	client := redis.NewClusterClient(cluster.Options())
	t.Cleanup(func() { _ = client.Close() })
	for _, key := range []string{"{a}1", "{a}2", "{a}3"} {
		require.NoError(t, client.Set(t.Context(), key, "value", 0).Err())
	}
	from, err := cluster.Owner(t.Context(), "{a}1")
	require.NoError(t, err)
	to, err := cluster.Owner(t.Context(), "b")
	require.NoError(t, err)
	require.NotEqual(t, from, to)

	require.NoError(t, cluster.Migrate(bounded(t), "{a}1", to, func() error {
		require.ErrorContains(t, connect(t, from).Get(t.Context(), "{a}1").Err(), "ASK")
		return client.Get(t.Context(), "{a}1").Err()
	}))
	owner, err := cluster.Owner(t.Context(), "{a}1")
	require.NoError(t, err)
	require.Equal(t, to, owner)
	require.ErrorContains(t, connect(t, from).Get(t.Context(), "{a}1").Err(), "MOVED")
	for _, key := range []string{"{a}1", "{a}2", "{a}3"} {
		require.Equal(t, "value", client.Get(t.Context(), key).Val())
	}
}

func TestRedisSentinel(t *testing.T) {
	t.Parallel()
	sentinel := servicetest.RedisSentinel(t)
	client := redis.NewFailoverClient(sentinel.Options())
	t.Cleanup(func() { _ = client.Close() })
	require.NoError(t, client.Set(t.Context(), "a", "value", 0).Err())
	first, err := sentinel.Master(t.Context())
	require.NoError(t, err)
	replicated, err := connect(t, first).Wait(t.Context(), 1, 5*time.Second).Result()
	require.NoError(t, err)
	require.EqualValues(t, 1, replicated)

	require.NoError(t, sentinel.FailOver(bounded(t)))
	second, err := sentinel.Master(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, first.Port, second.Port)
	require.Eventually(t, func() bool { return client.Get(t.Context(), "a").Val() == "value" }, 20*time.Second,
		50*time.Millisecond, "the client follows")

	require.NoError(t, first.Restart(bounded(t)))
	require.NoError(t, sentinel.Ready(bounded(t)))
	require.NoError(t, sentinel.FailOver(bounded(t)), "and back")
	third, err := sentinel.Master(t.Context())
	require.NoError(t, err)
	require.Equal(t, first.Port, third.Port)
}

// The parsers of go-redis take the URLs once the word before their scheme is gone.
func TestURLsOfSeveralServers(t *testing.T) {
	t.Parallel()
	cluster := servicetest.RedisCluster(t)
	parsed, err := url.Parse(cluster.URL())
	require.NoError(t, err)
	require.Equal(t, "redis+cluster", parsed.Scheme)
	options, err := redis.ParseClusterURL(strings.Replace(cluster.URL(), "+cluster", "", 1))
	require.NoError(t, err)
	require.ElementsMatch(t, cluster.Options().Addrs, options.Addrs)
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
