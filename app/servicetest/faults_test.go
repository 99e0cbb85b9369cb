package servicetest_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

func TestAClusterOfThreeMasters(t *testing.T) {
	t.Parallel()
	cluster := servicetest.RedisCluster(t)
	client := redis.NewClusterClient(cluster.Options())
	t.Cleanup(func() { _ = client.Close() })

	owners := map[*servicetest.RedisServer]bool{}
	for _, key := range []string{"a", "b", "c"} { // these three happen to live apart
		require.NoError(t, client.Set(t.Context(), key, "value", 0).Err())
		owner, err := cluster.Owner(t.Context(), key)
		require.NoError(t, err)
		owners[owner] = true
		value, err := connect(t, owner).Get(t.Context(), key).Result()
		require.NoError(t, err, "any other node would have redirected us")
		require.Equal(t, "value", value)
	}
	require.Len(t, owners, 3)

	lost, err := cluster.Owner(t.Context(), "a")
	require.NoError(t, err)
	require.NoError(t, lost.Restart(t.Context()))
	require.NoError(t, cluster.Ready(t.Context()))
	require.ErrorIs(t, client.Get(t.Context(), "a").Err(), redis.Nil)
}

func TestAProxyThatLosesOneReply(t *testing.T) {
	t.Parallel()
	server := servicetest.Redis(t)
	direct, far := connect(t, server), throughProxy(t, server)
	require.NoError(t, far.Ping(t.Context()).Err())

	lost := far.proxy.LoseReply("incr")
	require.ErrorIs(t, far.Get(t.Context(), "other").Err(), redis.Nil, "only what was named is lost")
	require.Error(t, far.Incr(t.Context(), "count").Err())
	<-lost
	count, err := direct.Get(t.Context(), "count").Int()
	require.NoError(t, err)
	require.Equal(t, 1, count, "the server did it")

	count64, err := far.Incr(t.Context(), "count").Result()
	require.NoError(t, err, "and only one reply was to be lost")
	require.EqualValues(t, 2, count64)
}

func TestAProxyThatDelaysAndCuts(t *testing.T) {
	t.Parallel()
	far := throughProxy(t, servicetest.Redis(t))
	require.NoError(t, far.Ping(t.Context()).Err())

	const delay = 50 * time.Millisecond
	far.proxy.Delay(delay)
	asked := time.Now()
	require.NoError(t, far.Ping(t.Context()).Err())
	require.GreaterOrEqual(t, time.Since(asked), delay)

	far.proxy.Delay(0)
	subscription := far.Subscribe(t.Context(), "channel")
	t.Cleanup(func() { _ = subscription.Close() })
	_, err := subscription.Receive(t.Context())
	require.NoError(t, err)
	far.proxy.Cut()
	_, err = subscription.Receive(t.Context())
	require.Error(t, err)
}

// far is a client whose every word passes a proxy.
type far struct {
	*redis.Client
	proxy *servicetest.Proxy
}

func throughProxy(t *testing.T, server *servicetest.RedisServer) far {
	proxy := servicetest.NewProxy(t, server.Addr())
	options := server.Options()
	options.Addr = proxy.Addr()
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return far{client, proxy}
}
