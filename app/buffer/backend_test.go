package buffer_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
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
	// delay holds up each reply that a process gets, as a Redis at a distance does.
	delay time.Duration
	// far are the proxies that do that.
	far map[string]string
}

// onEachBackend runs a test over one Redis and over a Cluster.
func onEachBackend(t *testing.T, test func(t *testing.T, b backend)) {
	t.Helper()
	t.Parallel()
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, oneRedis(t))
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		test(t, aCluster(t))
	})
}

// onEveryBackend runs a test about faults also with TLS, and with a Redis that is 10 ms away.
func onEveryBackend(t *testing.T, test func(t *testing.T, b backend)) {
	t.Helper()
	onPlainBackends(t, test)
	t.Run("tls", func(t *testing.T) {
		t.Parallel()
		b := backend{nodes: []*servicetest.RedisServer{servicetest.RedisTLS(t)}}
		b.loadScripts(t)
		test(t, b)
	})
}

// onPlainBackends leaves TLS out: a proxy that must find a command in what passes cannot read it there.
func onPlainBackends(t *testing.T, test func(t *testing.T, b backend)) {
	t.Helper()
	onEachBackend(t, test)
	t.Run("10ms away", func(t *testing.T) {
		t.Parallel()
		b := oneRedis(t)
		b.delay, b.far = 10*time.Millisecond, map[string]string{}
		for _, node := range b.nodes {
			proxy := servicetest.NewProxy(t, node.Addr())
			proxy.Delay(b.delay)
			b.far[node.Addr()] = proxy.Addr()
		}
		test(t, b)
	})
}

func aCluster(t *testing.T) backend {
	t.Helper()
	cluster := servicetest.RedisCluster(t)
	b := backend{nodes: cluster.Nodes, cluster: cluster}
	b.loadScripts(t)
	return b
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
	// CAFile verifies servers that speak TLS.
	CAFile string
	// Through maps the address of a node to that of the proxy by which this process reaches it.
	Through map[string]string
	// Backoff is how long a Cluster's client waits before it repeats what a connection lost. The default is its own.
	Backoff time.Duration
}

func (b backend) network() network {
	n := network{Cluster: b.cluster != nil, Through: b.far}
	for _, node := range b.nodes {
		n.Redis = append(n.Redis, node.Addr())
		if node.Options().TLSConfig != nil {
			n.CAFile = node.CAFile()
		}
	}
	return n
}

// timeout is generous: a machine that is busy with other tests is not the fault that a test is about.
const timeout = 10 * time.Second

func (n network) client() redis.UniversalClient {
	dialer := net.Dialer{Timeout: timeout}
	secure := n.secure()
	o := &redis.UniversalOptions{
		Addrs: n.Redis, IsClusterMode: n.Cluster,
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		ReadTimeout: timeout, WriteTimeout: timeout, PoolSize: 10,
		MinRetryBackoff: n.Backoff, MaxRetryBackoff: n.Backoff,
		Dialer: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, cmp.Or(n.Through[address], address))
			if err != nil || secure == nil {
				return conn, err
			}
			return tls.Client(conn, secure), nil
		},
	}
	if n.Cluster {
		cluster := o.Cluster()
		cluster.ClusterStateReloadInterval = time.Second // the default is a minute, which no test waits after a failover
		return redis.NewClusterClient(cluster)
	}
	return redis.NewUniversalClient(o)
}

// secure is how TLS is spoken, nil where it is not.
func (n network) secure() *tls.Config {
	if n.CAFile == "" {
		return nil
	}
	certificate, err := os.ReadFile(n.CAFile)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	return &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
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
		byNode[node].Delay(b.delay)
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
