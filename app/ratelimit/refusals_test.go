package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"nervous/app/ratelimit"
	"nervous/app/servicetest"
)

const (
	user     = "app"
	password = "of the user app"
)

// refusals are what a Redis that runs answers when it does not do what it is asked, and how each ends.
var refusals = map[string]struct {
	begin, end func(*testing.T, *servicetest.RedisServer, *redis.Client)
}{
	"NOPERM": {
		func(t *testing.T, _ *servicetest.RedisServer, admin *redis.Client) {
			do(t, admin, "ACL", "SETUSER", user, "-evalsha", "-eval")
		},
		func(t *testing.T, _ *servicetest.RedisServer, admin *redis.Client) {
			do(t, admin, "ACL", "SETUSER", user, "+evalsha", "+eval")
		},
	},
	"WRONGPASS": {
		func(t *testing.T, _ *servicetest.RedisServer, admin *redis.Client) {
			do(t, admin, "ACL", "SETUSER", user, "resetpass", ">another")
			do(t, admin, "CLIENT", "KILL", "USER", user)
		},
		func(t *testing.T, _ *servicetest.RedisServer, admin *redis.Client) {
			do(t, admin, "ACL", "SETUSER", user, ">"+password)
		},
	},
	"READONLY": {
		func(t *testing.T, _ *servicetest.RedisServer, admin *redis.Client) {
			do(t, admin, "REPLICAOF", "127.0.0.1", "1")
		},
		func(t *testing.T, _ *servicetest.RedisServer, admin *redis.Client) {
			do(t, admin, "REPLICAOF", "NO", "ONE")
		},
	},
	"MASTERDOWN": {
		func(t *testing.T, _ *servicetest.RedisServer, admin *redis.Client) {
			do(t, admin, "CONFIG", "SET", "replica-serve-stale-data", "no")
			do(t, admin, "REPLICAOF", "127.0.0.1", "1")
		},
		func(t *testing.T, _ *servicetest.RedisServer, admin *redis.Client) {
			do(t, admin, "REPLICAOF", "NO", "ONE")
		},
	},
	"OOM": {
		func(t *testing.T, _ *servicetest.RedisServer, admin *redis.Client) {
			do(t, admin, "CONFIG", "SET", "maxmemory", "1")
		},
		func(t *testing.T, _ *servicetest.RedisServer, admin *redis.Client) {
			do(t, admin, "CONFIG", "SET", "maxmemory", "0")
		},
	},
	"MISCONF": {
		func(t *testing.T, s *servicetest.RedisServer, admin *redis.Client) {
			require.NoError(t, os.Mkdir(filepath.Join(s.Dir, "dump.rdb"), 0o700)) // in the way of the snapshot
			do(t, admin, "CONFIG", "SET", "save", "3600 1")
			do(t, admin, "BGSAVE")
			eventually(t, func() bool {
				info, err := admin.Info(t.Context(), "persistence").Result()
				return err == nil && strings.Contains(info, "rdb_last_bgsave_status:err")
			})
		},
		func(t *testing.T, _ *servicetest.RedisServer, admin *redis.Client) {
			do(t, admin, "CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
		},
	},
	// The server may have closed the connection before it reads what it refuses.
	"max number of clients reached|EOF|broken pipe|reset by peer": {
		func(t *testing.T, _ *servicetest.RedisServer, admin *redis.Client) {
			do(t, admin, "CONFIG", "SET", "maxclients", "1")
			do(t, admin, "CLIENT", "KILL", "USER", user)
		},
		func(t *testing.T, _ *servicetest.RedisServer, admin *redis.Client) {
			do(t, admin, "CONFIG", "SET", "maxclients", "100")
		},
	},
}

func do(t *testing.T, admin *redis.Client, command ...any) {
	t.Helper()
	require.NoError(t, admin.Do(t.Context(), command...).Err(), command)
}

// restricted is a client of a user that may do everything but what the rules take away.
func restricted(t *testing.T, s *servicetest.RedisServer, rules ...any) redis.UniversalClient {
	t.Helper()
	do(t, connect(t, s), append([]any{"ACL", "SETUSER", user, "on", ">" + password, "~*", "&*", "+@all"}, rules...)...)
	o := network{Redis: []string{s.Addr()}}.options()
	o.Username, o.Password, o.OnConnect = user, password, ratelimit.LoadScripts
	client := redis.NewUniversalClient(o)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Every refusal is a failure of Redis: the fallback decides, and the circuit opens.
func TestLimiter_Check_RefusalOpensTheCircuit(t *testing.T) {
	t.Parallel()
	for name, refusal := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := servicetest.Redis(t)
			client, admin := restricted(t, server), connect(t, server)
			var asked atomic.Int64
			var last atomic.Value
			client.AddHook(afterEach{func(cmd redis.Cmder) {
				if cmd.Name() == "evalsha" || cmd.Name() == "eval" {
					asked.Add(1)
					last.Store(fmt.Sprint(cmd.Err()))
				}
			}})
			l := ratelimit.New(client, ratelimit.Options{Replica: "one", Budget: timeout})
			require.False(t, check(t, l, caller, 1, overall).Degraded)
			refusal.begin(t, server, admin)
			asked.Store(0)
			for range ratelimit.BreakerTrips {
				require.True(t, check(t, l, caller, 1, overall).Degraded)
			}
			require.EqualValues(t, ratelimit.BreakerTrips, asked.Load())
			require.Regexp(t, name, last.Load())
			require.True(t, check(t, l, caller, 1, overall).Degraded)
			require.EqualValues(t, ratelimit.BreakerTrips, asked.Load(), "the circuit is open")
			refusal.end(t, server, admin)
			eventually(t, func() bool { return !check(t, l, "user:43", 1, overall).Degraded })
		})
	}
}

// A Redis that starts with data answers LOADING until it has read them.
func TestLimiter_Check_LoadingFallsBack(t *testing.T) {
	t.Parallel()
	server, err := servicetest.StartRedis(t.Context(), servicetest.Options{Settings: map[string]string{
		"save": "", "rdbcompression": "no", "key-load-delay": "10000", "loading-process-events-interval-bytes": "1024",
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	admin := connect(t, server)
	for i := range 200 {
		require.NoError(t, admin.Set(t.Context(), strconv.Itoa(i), strings.Repeat("x", 1_000), 0).Err())
	}
	require.NoError(t, admin.Save(t.Context()).Err())
	l := backend{nodes: []*servicetest.RedisServer{server}}.limiter(t, ratelimit.Options{Budget: timeout})
	require.False(t, check(t, l, caller, 1, overall).Degraded)
	restarted := make(chan error, 1)
	go func() { restarted <- server.Restart(context.WithoutCancel(t.Context())) }()
	eventually(t, func() bool { return redis.IsLoadingError(admin.Get(t.Context(), "0").Err()) })
	require.True(t, check(t, l, caller, 1, overall).Degraded)
	require.NoError(t, <-restarted)
	eventually(t, func() bool { return !check(t, l, "user:43", 1, overall).Degraded })
}

func TestBreaker_CountsErrorsHoweverTheyAreWrapped(t *testing.T) {
	t.Parallel()
	refused := errors.New("WRONGPASS invalid username-password pair or user is disabled")
	for _, err := range []error{
		refused, fmt.Errorf("failed to authenticate: %w", refused), errors.Join(errors.New("dial"), refused),
		context.DeadlineExceeded, fmt.Errorf("read: %w", errors.Join(refused, context.Canceled)),
	} {
		require.True(t, ratelimit.Opens(t.Context(), err), err)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	require.False(t, ratelimit.Opens(gone, refused), "the caller had gone")
	require.False(t, ratelimit.Opens(t.Context(), fmt.Errorf("nothing: %w", redis.Nil)))
}

// reducedBy is what MetricReduced says, by capability.
func reducedBy(t *testing.T, reader *metric.ManualReader) map[string]int64 {
	t.Helper()
	var collected metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &collected))
	said := map[string]int64{}
	for _, scope := range collected.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != ratelimit.MetricReduced {
				continue
			}
			for _, p := range m.Data.(metricdata.Gauge[int64]).DataPoints {
				capability, _ := p.Attributes.Value("capability")
				said[capability.AsString()] = p.Value
			}
		}
	}
	return said
}

// The default user of Redis 7 has channels, one that is made by ACL SETUSER has none.
func TestLimiter_Reset_WithoutChannelsReachesOtherReplicasByTheirHeartbeat(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	reader := metric.NewManualReader()
	client := restricted(t, b.nodes[0], "resetchannels")
	l := ratelimit.New(client, ratelimit.Options{
		Replica: "one", Budget: timeout, MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)),
	})
	hears := b.running(t, ratelimit.Options{Replica: "two", Heartbeat: 200 * time.Millisecond})
	eventually(t, hears.Subscribed)
	spend(t, l, caller, overall.Limit, overall)
	for _, l := range []*ratelimit.Limiter{l, hears} {
		require.Equal(t, ratelimit.FromRedis, check(t, l, caller, 1, overall).Source)
		require.Equal(t, ratelimit.FromMemory, check(t, l, caller, 1, overall).Source)
	}
	require.Equal(t, map[string]int64{"publish": 0, "subscribe": 0}, reducedBy(t, reader))

	reset(t, l, caller, overall)
	require.Equal(t, map[string]int64{"publish": 1, "subscribe": 0}, reducedBy(t, reader))
	require.Zero(t, connect(t, b.nodes[0]).Exists(t.Context(), ratelimit.Key(caller, overall)).Val())
	require.True(t, check(t, l, caller, 1, overall).Allowed, "here at once")
	eventually(t, func() bool { return check(t, hears, caller, 1, overall).Allowed })
	require.EqualValues(t, 1, hears.Replicas(), "the mark is no replica")

	do(t, connect(t, b.nodes[0]), "ACL", "SETUSER", user, "allchannels")
	reset(t, l, caller, overall)
	require.Equal(t, map[string]int64{"publish": 0, "subscribe": 0}, reducedBy(t, reader))
}

func TestLimiter_Run_WithoutChannelsRemembersDenialsForASecond(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	admin, reader := connect(t, b.nodes[0]), metric.NewManualReader()
	client := restricted(t, b.nodes[0], "resetchannels")
	deaf := ratelimit.New(client, ratelimit.Options{
		Replica: "one", Budget: timeout, Connections: -1, MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)),
	})
	runUntilTheEnd(t, deaf)
	eventually(t, func() bool { return reducedBy(t, reader)["subscribe"] == 1 })
	spend(t, deaf, caller, overall.Limit, overall)
	d := check(t, deaf, caller, 1, overall)
	require.Greater(t, d.Wait(), 10*ratelimit.UnheardFor)
	began := time.Now()
	d = check(t, deaf, caller, 1, overall)
	if time.Since(began) < ratelimit.UnheardFor/2 {
		require.Equal(t, ratelimit.FromMemory, d.Source)
	}
	other := b.limiter(t, ratelimit.Options{Replica: "two"})
	reset(t, other, caller, overall)
	eventually(t, func() bool { return check(t, deaf, caller, 1, overall).Allowed })
	stats, err := admin.InfoMap(t.Context(), "stats").Result()
	require.NoError(t, err)
	connections, err := strconv.Atoi(stats["Stats"]["total_connections_received"])
	require.NoError(t, err)
	require.Less(t, connections, 20, "it does not subscribe again and again")
}

// EVAL stands behind EVALSHA: a server without the scripts, and a user that may not load them, are no fault.
func TestLimiter_Check_WithoutScriptLoad(t *testing.T) {
	t.Parallel()
	server := servicetest.Redis(t)
	l := ratelimit.New(restricted(t, server, "-script"), ratelimit.Options{Replica: "one", Budget: timeout})
	for range overall.Limit {
		d := check(t, l, caller, 1, overall)
		require.True(t, d.Allowed)
		require.Equal(t, ratelimit.FromRedis, d.Source)
		do(t, connect(t, server), "SCRIPT", "FLUSH")
	}
	require.False(t, check(t, l, caller, 1, overall).Allowed)
	reset(t, l, caller, overall)
	require.True(t, check(t, l, caller, 1, overall).Allowed)
}

// A subscriber that does not read fast enough is disconnected by its output buffer's limit.
func TestLimiter_Run_SubscribesAgainAfterTheServerHasClosedTheConnection(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	admin := connect(t, b.nodes[0])
	l := b.running(t, ratelimit.Options{})
	eventually(t, l.Subscribed)
	b.subscribed(t, 1)
	subscriber := func() string {
		id, _, _ := strings.Cut(admin.Do(t.Context(), "CLIENT", "LIST", "TYPE", "pubsub").Val().(string), " ")
		return id
	}
	first := subscriber()
	do(t, admin, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 1 0 0")
	require.NoError(t, admin.Publish(t.Context(), ratelimit.ResetsChannel, strings.Repeat("x", 1<<20)).Err())
	eventually(t, func() bool { return subscriber() != first })
	do(t, admin, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0")
	b.subscribed(t, 1)
	other := b.limiter(t, ratelimit.Options{Replica: "two"})
	spend(t, other, caller, overall.Limit, overall)
	eventually(t, func() bool { // its own subscription may still be news to it
		check(t, l, caller, 1, overall)
		return check(t, l, caller, 1, overall).Source == ratelimit.FromMemory
	})
	reset(t, other, caller, overall)
	eventually(t, func() bool { return check(t, l, caller, 1, overall).Allowed })
}

// While the slot of a caller moves, and afterwards, its units are neither lost nor spent twice.
func TestLimiter_Check_SlotThatMoves(t *testing.T) {
	t.Parallel()
	cluster := servicetest.RedisCluster(t)
	b := backend{nodes: cluster.Nodes, cluster: cluster}
	l := b.limiter(t, ratelimit.Options{})
	key := ratelimit.Key(caller, overall)
	from, err := cluster.Owner(t.Context(), key)
	require.NoError(t, err)
	to := cluster.Nodes[0]
	if to == from {
		to = cluster.Nodes[1]
	}
	redisAdmits := func(units int64) {
		for range units {
			d := check(t, l, caller, 1, overall)
			require.True(t, d.Allowed)
			require.Equal(t, ratelimit.FromRedis, d.Source)
		}
	}
	redisAdmits(3)
	require.NoError(t, cluster.Migrate(t.Context(), key, to, func() error {
		redisAdmits(3) // redirected by ASK
		return nil
	}))
	redisAdmits(overall.Limit - 6) // redirected by MOVED
	require.False(t, check(t, l, caller, 1, overall).Allowed)
	require.Equal(t, overall.Limit, connect(t, to).LLen(t.Context(), key).Val())
}
