package cache_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest"
)

// backend is what replicas share: one Redis, or a Cluster of three masters.
type backend struct {
	nodes   []*servicetest.RedisServer
	cluster *servicetest.Cluster
	// certificate verifies a server that speaks TLS; else empty.
	certificate string
	// through are the proxies by which clients reach the nodes unless a test puts its own in between.
	through map[string]string
}

// onEachLink runs a test over each backend, over TLS, and over a Redis that is 10 ms away.
func onEachLink(t *testing.T, test func(t *testing.T, b backend)) {
	t.Helper()
	onEachBackend(t, test)
	t.Run("tls", func(t *testing.T) {
		t.Parallel()
		server := servicetest.RedisTLS(t)
		b := backend{nodes: []*servicetest.RedisServer{server}, certificate: server.CAFile()}
		b.loadScripts(t)
		test(t, b)
	})
	t.Run("far", func(t *testing.T) {
		t.Parallel()
		b := oneRedis(t)
		through, proxies := b.proxies(t)
		for _, proxy := range proxies {
			proxy.Delay(10 * time.Millisecond)
		}
		b.through = through
		test(t, b)
	})
}

// onEachBackend runs a test over both.
func onEachBackend(t *testing.T, test func(t *testing.T, b backend)) {
	t.Helper()
	onEachBackendCold(t, func(t *testing.T, b backend) {
		t.Helper()
		b.loadScripts(t)
		test(t, b)
	})
}

// onEachBackendCold runs a test over servers that have not seen the scripts.
func onEachBackendCold(t *testing.T, test func(t *testing.T, b backend)) {
	t.Helper()
	t.Parallel()
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, backend{nodes: []*servicetest.RedisServer{servicetest.Redis(t)}})
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		cluster := servicetest.RedisCluster(t)
		test(t, backend{nodes: cluster.Nodes, cluster: cluster})
	})
}

func oneCluster(t *testing.T) backend {
	t.Helper()
	cluster := servicetest.RedisCluster(t)
	return backend{nodes: cluster.Nodes, cluster: cluster}
}

func oneRedis(t *testing.T) backend {
	t.Helper()
	b := backend{nodes: []*servicetest.RedisServer{servicetest.Redis(t)}}
	b.loadScripts(t)
	return b
}

// loadScripts does what a service does at its start; without it each script's first call would be a question first.
func (b backend) loadScripts(t *testing.T) {
	t.Helper()
	for _, node := range b.nodes {
		for _, script := range cache.Scripts() {
			require.NoError(t, script.Load(t.Context(), connect(t, node)).Err())
		}
	}
}

func (b backend) addresses() (addresses []string) {
	for _, node := range b.nodes {
		addresses = append(addresses, node.Addr())
	}
	return addresses
}

// owner is the node that keeps the cache's key.
func (b backend) owner(t *testing.T, key string) *servicetest.RedisServer {
	t.Helper()
	if b.cluster == nil {
		return b.nodes[0]
	}
	owner, err := b.cluster.Owner(t.Context(), key) // the key is its own hash tag
	require.NoError(t, err)
	return owner
}

// at is a client of the node that keeps the key.
func (b backend) at(t *testing.T, key string) *redis.Client {
	t.Helper()
	return connect(t, b.owner(t, key))
}

// await returns once all nodes work together again after one was restarted.
func (b backend) await(t *testing.T) {
	t.Helper()
	if b.cluster != nil {
		require.NoError(t, b.cluster.Ready(t.Context()))
	}
}

// proxies puts a proxy before each node.
func (b backend) proxies(t *testing.T) (
	through map[string]string, byNode map[*servicetest.RedisServer]*servicetest.Proxy,
) {
	t.Helper()
	through, byNode = map[string]string{}, map[*servicetest.RedisServer]*servicetest.Proxy{}
	for _, node := range b.nodes {
		byNode[node] = servicetest.NewProxy(t, node.Addr())
		through[node.Addr()] = byNode[node].Addr()
	}
	return through, byNode
}

// subscribers counts who listens on the cache's channel, on any node.
func (b backend) subscribers(t *testing.T) (n int64) {
	t.Helper()
	for _, node := range b.nodes {
		counts, err := connect(t, node).PubSubNumSub(context.WithoutCancel(t.Context()), channel).Result()
		require.NoError(t, err)
		n += counts[channel]
	}
	return n
}

// listens says whether the client of that name is subscribed, at any node.
func (b backend) listens(t *testing.T, client string) bool {
	t.Helper()
	return slices.ContainsFunc(b.nodes, func(node *servicetest.RedisServer) bool {
		listeners, err := connect(t, node).Do(t.Context(), "CLIENT", "LIST", "TYPE", "pubsub").Text()
		require.NoError(t, err)
		return strings.Contains(listeners, " name="+client+" ")
	})
}

// channel is where caches named "test" publish.
var channel = cache.Channel()

func connect(t *testing.T, server *servicetest.RedisServer) *redis.Client {
	t.Helper()
	client := redis.NewClient(server.Options())
	t.Cleanup(func() { _ = client.Close() })
	return client
}
