package telemetry

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"nervous/app/servicetest"
)

// topology is a way in which Redis runs: a client, instrumented by the test, and the servers that answer it.
type topology struct {
	client  redis.UniversalClient
	servers []*servicetest.RedisServer
}

var topologies = map[string]func(*testing.T) topology{
	"one server":  func(t *testing.T) topology { return single(servicetest.Redis(t)) },
	"TLS":         func(t *testing.T) topology { return single(servicetest.RedisTLS(t)) },
	"Unix socket": func(t *testing.T) topology { return single(servicetest.RedisSocket(t)) },
	"Sentinel": func(t *testing.T) topology {
		sentinel := servicetest.RedisSentinel(t)
		options := sentinel.Options()
		RedisOptions(options)
		return topology{redis.NewFailoverClient(options), sentinel.Nodes[:1]}
	},
	"Cluster": func(t *testing.T) topology {
		cluster := servicetest.RedisCluster(t)
		options := cluster.Options()
		RedisOptions(options)
		return topology{redis.NewClusterClient(options), cluster.Nodes}
	},
}

func single(server *servicetest.RedisServer) topology {
	options := server.Options()
	RedisOptions(options)
	return topology{redis.NewClient(options), []*servicetest.RedisServer{server}}
}

// What only Sentinels, replicas and the test itself send.
var notOurs = []string{"INFO", "PING", "PUBLISH", "REPLCONF", "EXISTS"}

func TestRedis_EveryTopology(t *testing.T) {
	t.Parallel()
	RedisScript("lease", lease)
	for name, start := range topologies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, served := record(t), start(t)
			t.Cleanup(func() { _ = served.client.Close() })
			require.NoError(t, instrumentRedis(served.client, r.wire, r.tracers, r.meters))
			require.NoError(t, observePool(r.meters, "redis", redisPoolState(served.client)))
			var auditors []*redis.Client
			before := map[string]int64{}
			for _, server := range served.servers {
				auditor := redis.NewClient(server.Options())
				t.Cleanup(func() { _ = auditor.Close() })
				auditors = append(auditors, auditor)
				addTo(map[string]map[string]int64{"": before}, labelled(commandstats(t, auditor)))
			}
			connected := connections(t, auditors)

			require.NoError(t, served.client.Set(t.Context(), "k", "v", 0).Err())
			for range 200 {
				require.NoError(t, served.client.Get(t.Context(), "k").Err())
			}
			require.Less(t, connections(t, auditors)-connected, int64(5), "connections for 200 commands in turn")

			var group sync.WaitGroup
			for range 4 {
				group.Go(func() { mixture(t.Context(), served.client) })
			}
			group.Wait()

			after := map[string]int64{}
			for _, auditor := range auditors {
				addTo(map[string]map[string]int64{"": after}, labelled(commandstats(t, auditor)))
			}
			for command, n := range before {
				if after[command] -= n; after[command] == 0 {
					delete(after, command)
				}
			}
			traced, wired := r.counter(TelemetryCalls, "operation"), r.counter(WireCalls, "operation")
			require.Equal(t, wired, traced, "calls on the wire and on spans")
			require.Equal(t, r.roundTrips(), r.counter(WireRoundTrips, "store")["redis"])
			for _, command := range notOurs {
				delete(after, command)
			}
			require.Equal(t, after, traced, "calls that the servers counted, and those on spans")
			require.EqualValues(t, 300, traced["GET"])
			require.EqualValues(t, 200, traced["INCR"])

			byState := r.counter("db.client.connection.count", semconv.DBClientConnectionStateKey)
			require.Positive(t, byState["idle"])
			require.Zero(t, byState["used"])
			require.Positive(t, r.counter("db.client.connection.max", semconv.DBClientConnectionPoolNameKey)["redis"])
		})
	}
}

// mixture sends 25 times what the mechanisms send.
func mixture(ctx context.Context, client redis.UniversalClient) {
	for range 25 {
		client.Get(ctx, "absent")
		client.LPush(ctx, "k", "not a list")
		lease.Run(ctx, client, []string{"k"}, "token")
		_, _ = client.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.Incr(ctx, "{n}1")
			p.Incr(ctx, "{n}2")
			return nil
		})
	}
}

func labelled(counts map[string]int64) map[label]int64 {
	of := map[label]int64{}
	for operation, n := range counts {
		of[label{operation: operation}] = n
	}
	return of
}

func connections(t *testing.T, auditors []*redis.Client) (sum int64) {
	t.Helper()
	for _, auditor := range auditors {
		info, err := auditor.InfoMap(t.Context(), "stats").Result()
		require.NoError(t, err)
		sum += mustInt(t, strings.TrimSpace(info["Stats"]["total_connections_received"]))
	}
	return sum
}

// A redirected command is two spans, and each server has counted one of them.
func TestRedis_RedirectsAreTraced(t *testing.T) {
	t.Parallel()
	r, cluster := record(t), servicetest.RedisCluster(t)
	options := cluster.Options()
	RedisOptions(options)
	client := redis.NewClusterClient(options)
	t.Cleanup(func() { _ = client.Close() })
	require.NoError(t, instrumentRedis(client, r.wire, r.tracers, r.meters))
	require.NoError(t, client.Set(t.Context(), "a", "v", 0).Err())
	to, err := cluster.Owner(t.Context(), "b")
	require.NoError(t, err)

	require.NoError(t, cluster.Migrate(t.Context(), "a", to, func() error {
		return client.Get(t.Context(), "a").Err()
	}))
	asked := r.spans(named("PIPELINE"))
	require.Len(t, asked, 1)
	require.ElementsMatch(t, []string{"ASKING", "GET"}, attributes(asked[0].Attributes)[SpanCallNames])
	failed := r.spans(named("GET"))
	require.Len(t, failed, 1)
	require.Equal(t, "ASK", attributes(failed[0].Attributes)[semconv.DBResponseStatusCodeKey])

	// Until the client has read the new slots.
	require.NoError(t, client.Get(t.Context(), "a").Err())
	require.Equal(t, r.counter(WireCalls, "operation"), r.counter(TelemetryCalls, "operation"))
}
