package buffer_test

import (
	"cmp"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
	"nervous/app/servicetest"
)

// backend is what processes share: one Redis, or a Cluster of three masters.
type backend struct {
	nodes   []*servicetest.RedisServer
	cluster *servicetest.Cluster
}

// onEachBackend runs a test over both.
func onEachBackend(t *testing.T, test func(t *testing.T, b backend)) {
	t.Helper()
	t.Parallel()
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, oneRedis(t))
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		cluster := servicetest.RedisCluster(t)
		b := backend{cluster.Nodes, cluster}
		b.loadScripts(t)
		test(t, b)
	})
}

func oneRedis(t *testing.T) backend {
	t.Helper()
	b := backend{nodes: []*servicetest.RedisServer{servicetest.Redis(t)}}
	b.loadScripts(t)
	return b
}

// keptRedis is one whose data survives its process.
func keptRedis(t *testing.T) backend {
	t.Helper()
	// What is written before it is answered survives kill -9; that a machine may lose a second is not the test's business.
	server, err := servicetest.StartRedis(t.Context(), servicetest.Options{Settings: map[string]string{
		"save": "", "appendonly": "yes", "appendfsync": "no",
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	b := backend{nodes: []*servicetest.RedisServer{server}}
	b.loadScripts(t)
	return b
}

// loadScripts does what a service does at its start; without it each script's first call would be a question first.
func (b backend) loadScripts(t *testing.T) {
	t.Helper()
	for _, node := range b.nodes {
		for _, script := range buffer.Scripts() {
			require.NoError(t, script.Load(t.Context(), connect(t, node)).Err())
		}
	}
}

// network is how a process reaches the nodes.
type network struct {
	Redis   []string
	Cluster bool
	// Through maps the address of a node to that of the proxy by which this process reaches it.
	Through map[string]string
	// Backoff is how long a Cluster's client waits before it repeats what a connection lost. The default is its own.
	Backoff time.Duration
}

func (b backend) network() network {
	n := network{Cluster: b.cluster != nil}
	for _, node := range b.nodes {
		n.Redis = append(n.Redis, node.Addr())
	}
	return n
}

// timeout is generous: a machine that is busy with other tests is not the fault that a test is about.
const timeout = 10 * time.Second

func (n network) client() redis.UniversalClient {
	dialer := net.Dialer{Timeout: timeout}
	return redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: n.Redis, IsClusterMode: n.Cluster,
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		ReadTimeout: timeout, WriteTimeout: timeout, PoolSize: 10,
		MinRetryBackoff: n.Backoff, MaxRetryBackoff: n.Backoff,
		Dialer: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, cmp.Or(n.Through[address], address))
		},
	})
}

// client is a client of all nodes.
func (b backend) client(t testing.TB) redis.UniversalClient {
	t.Helper()
	client := b.network().client()
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// owner is the node that keeps the buffer, all of whose keys have one hash tag.
func (b backend) owner(t *testing.T, member string) *servicetest.RedisServer {
	t.Helper()
	if b.cluster == nil {
		return b.nodes[0]
	}
	owner, err := b.cluster.Owner(t.Context(), key(member, "open"))
	require.NoError(t, err)
	return owner
}

// Most tests need one buffer of one family. Its member is its name in the index.
const (
	family = "test"
	live   = "live"
	member = family + ":" + live
)

// key is that of something of a buffer, in the default namespace.
func key(member, what string) string { return "default:buffer:{" + member + "}:" + what }

// index is the sorted set of the buffers of the default namespace.
const index = "default:buffers"

// at is a client of the node that keeps the buffer.
func (b backend) at(t *testing.T, member string) *redis.Client {
	t.Helper()
	return connect(t, b.owner(t, member))
}

// left lists what Redis keeps of the live buffer.
func (b backend) left(t *testing.T) []string {
	t.Helper()
	return leftAt(t, b.at(t, member), member)
}

func leftAt(t *testing.T, rdb *redis.Client, member string) []string {
	t.Helper()
	keys, err := rdb.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	var left []string
	for _, k := range keys {
		if strings.HasPrefix(k, key(member, "")) {
			left = append(left, k)
		}
	}
	return left
}

// empty returns once Redis keeps nothing of a buffer.
func (b backend) empty(t *testing.T, member string) {
	t.Helper()
	rdb := b.at(t, member)
	eventually(t, func() bool { return len(leftAt(t, rdb, member)) == 0 })
}

// waiting lists a buffer's generations.
func (b backend) waiting(t *testing.T, member string) []string {
	t.Helper()
	generations, err := b.at(t, member).ZRange(t.Context(), key(member, "generations"), 0, -1).Result()
	require.NoError(t, err)
	return generations
}

// unleased returns once nobody holds the lease of the buffer's generation.
func (b backend) unleased(t *testing.T, member string) {
	t.Helper()
	generations := b.waiting(t, member)
	require.Len(t, generations, 1)
	rdb, lease := b.at(t, member), key(member, "lease:"+generations[0])
	eventually(t, func() bool { return rdb.Exists(t.Context(), lease).Val() == 0 })
}

// proxies puts a proxy before each node.
func (b backend) proxies(t *testing.T) (n network, byNode map[*servicetest.RedisServer]*servicetest.Proxy) {
	t.Helper()
	n = b.network()
	n.Through, byNode = map[string]string{}, map[*servicetest.RedisServer]*servicetest.Proxy{}
	for _, node := range b.nodes {
		byNode[node] = servicetest.NewProxy(t, node.Addr())
		n.Through[node.Addr()] = byNode[node].Addr()
	}
	return n, byNode
}

func connect(t testing.TB, server *servicetest.RedisServer) *redis.Client {
	t.Helper()
	options := server.Options()
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout = timeout, timeout, timeout
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// patience bounds every wait: a test that hangs should say where.
const patience = 30 * time.Second

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, patience, 10*time.Millisecond)
}
