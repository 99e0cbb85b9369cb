package ratelimit_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"

	"nervous/app/ratelimit"
	"nervous/app/servicetest"
)

// backend is what replicas share: one Redis, directly or over TLS or at a distance, or a Cluster of three masters.
type backend struct {
	nodes   []*servicetest.RedisServer
	cluster *servicetest.Cluster
	// caFile verifies the server, where it speaks TLS only.
	caFile string
	// delay is how far away it is: how long each answer takes longer.
	delay   time.Duration
	through map[string]string
}

// backends start what each test of a fault or of a promise runs over.
var backends = map[string]func(testing.TB) backend{
	"redis": oneRedis,
	"tls": func(t testing.TB) backend {
		server := servicetest.RedisTLS(t)
		return backend{nodes: []*servicetest.RedisServer{server}, caFile: server.CAFile()}
	},
	"10 ms away": func(t testing.TB) backend {
		b := backend{nodes: []*servicetest.RedisServer{servicetest.Redis(t)}, delay: 10 * time.Millisecond}
		n, _ := b.proxies(t)
		b.through = n.Through
		return b
	},
	"cluster": func(t testing.TB) backend {
		cluster := servicetest.RedisCluster(t)
		return backend{nodes: cluster.Nodes, cluster: cluster}
	},
}

// onEachBackend runs a test over all of them, but for those that it cannot work over.
func onEachBackend(t *testing.T, test func(t *testing.T, b backend), without ...string) {
	t.Helper()
	t.Parallel()
	for name, start := range backends {
		if slices.Contains(without, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t)
			b.loadScripts(t)
			test(t, b)
		})
	}
}

func oneRedis(t testing.TB) backend {
	t.Helper()
	b := backend{nodes: []*servicetest.RedisServer{servicetest.Redis(t)}}
	b.loadScripts(t)
	return b
}

// loadScripts does what a service does at its start; without it each script's first call would be a question first.
func (b backend) loadScripts(t testing.TB) {
	t.Helper()
	for _, node := range b.nodes {
		for _, script := range ratelimit.Scripts() {
			require.NoError(t, script.Load(t.Context(), connect(t, node)).Err())
		}
	}
}

// network is how a replica reaches the nodes.
type network struct {
	Redis   []string
	Cluster bool
	CAFile  string
	// Through maps the address of a node to that of the proxy by which this replica reaches it.
	Through map[string]string
}

func (b backend) network() network {
	n := network{Cluster: b.cluster != nil, CAFile: b.caFile, Through: b.through}
	for _, node := range b.nodes {
		n.Redis = append(n.Redis, node.Addr())
	}
	return n
}

// timeout is generous: a machine that is busy with other tests is not the fault that a test is about. And it is so long
// that only the limiter's own budget can be what ends a wait.
const timeout = 20 * time.Second

func (n network) client() redis.UniversalClient {
	return redis.NewUniversalClient(n.options())
}

func (n network) options() *redis.UniversalOptions {
	return &redis.UniversalOptions{
		Addrs: n.Redis, IsClusterMode: n.Cluster,
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: timeout, ReadTimeout: timeout, WriteTimeout: timeout, PoolSize: 40,
		DisableIdentity: true, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		Dialer: n.dial,
	}
}

func (n network) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: timeout}
	address = cmp.Or(n.Through[address], address)
	if n.CAFile == "" {
		return dialer.DialContext(ctx, network, address)
	}
	pem, err := os.ReadFile(n.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	secure := tls.Dialer{NetDialer: dialer, Config: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	return secure.DialContext(ctx, network, address)
}

// limiter is a replica's in this process.
func (b backend) limiter(t testing.TB, o ratelimit.Options) *ratelimit.Limiter {
	t.Helper()
	return b.network().limiter(t, o)
}

// limiter waits for Redis as long as it takes, unless the test says otherwise.
func (n network) limiter(t testing.TB, o ratelimit.Options) *ratelimit.Limiter {
	t.Helper()
	client := n.client()
	t.Cleanup(func() { _ = client.Close() })
	o.Replica, o.Budget = cmp.Or(o.Replica, t.Name()), cmp.Or(o.Budget, timeout)
	return ratelimit.New(client, o)
}

// proxies puts a proxy before each node.
func (b backend) proxies(t testing.TB) (n network, byNode map[*servicetest.RedisServer]*servicetest.Proxy) {
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

// owner is the node that keeps the key.
func (b backend) owner(t *testing.T, key string) *servicetest.RedisServer {
	t.Helper()
	if b.cluster == nil {
		return b.nodes[0]
	}
	owner, err := b.cluster.Owner(t.Context(), key)
	require.NoError(t, err)
	return owner
}

// keeper is the node that keeps what the caller of most tests spends, and a client of it.
func (b backend) keeper(t *testing.T) (*servicetest.RedisServer, *redis.Client) {
	t.Helper()
	node := b.owner(t, ratelimit.Key(caller, overall))
	return node, connect(t, node)
}

// ready returns once all nodes work together again after one was restarted.
func (b backend) ready(t *testing.T) {
	t.Helper()
	if b.cluster != nil {
		require.NoError(t, b.cluster.Ready(t.Context()))
	}
}

// keys lists what all nodes keep.
func (b backend) keys(t *testing.T) (keys []string) {
	t.Helper()
	for _, node := range b.nodes {
		kept, err := connect(t, node).Keys(t.Context(), "*").Result()
		require.NoError(t, err)
		keys = append(keys, kept...)
	}
	return keys
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

// The policies of most tests: what a service gives each caller, and what a dear route gives besides.
var (
	overall = ratelimit.Policy{
		Name: "overall", Limit: 10, Window: time.Minute, Strategy: ratelimit.Exact, Fallback: ratelimit.Local,
	}
	runs = ratelimit.Policy{
		Name: "runs", Limit: 3, Window: time.Minute, Strategy: ratelimit.Exact, Fallback: ratelimit.Local,
	}
)

const caller = "user:42"

// compile returns the policies as checks take them.
func compile(t testing.TB, l *ratelimit.Limiter, p ...ratelimit.Policy) (compiled []*ratelimit.CompiledPolicy) {
	t.Helper()
	for _, p := range p {
		c, err := l.Policy(p)
		require.NoError(t, err)
		compiled = append(compiled, c)
	}
	return compiled
}

// check is a check of which nothing is expected but an answer.
func check(t testing.TB, l *ratelimit.Limiter, who string, cost int64, p ...ratelimit.Policy) ratelimit.Decision {
	t.Helper()
	d, err := l.Check(t.Context(), who, cost, compile(t, l, p...)...)
	require.NoError(t, err)
	return d
}

func reset(t testing.TB, l *ratelimit.Limiter, who string, p ...ratelimit.Policy) {
	t.Helper()
	require.NoError(t, l.Reset(t.Context(), who, compile(t, l, p...)...))
}

// spend spends a caller's units one by one, which must be admitted.
func spend(t testing.TB, l *ratelimit.Limiter, who string, units int64, p ...ratelimit.Policy) {
	t.Helper()
	for i := range units {
		require.True(t, check(t, l, who, 1, p...).Allowed, "unit %d", i+1)
	}
}

// clock is one that a test sets.
type clock struct{ micros atomic.Int64 }

// start is when a minute begins.
var start = time.Unix(1_800_000_000, 0).UTC()

func newClock() *clock {
	c := &clock{}
	c.set(start)
	return c
}

func (c *clock) now() time.Time          { return time.UnixMicro(c.micros.Load()).UTC() }
func (c *clock) set(to time.Time)        { c.micros.Store(to.UnixMicro()) }
func (c *clock) advance(d time.Duration) { c.micros.Add(d.Microseconds()) }
