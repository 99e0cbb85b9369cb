package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/redisurl"
	"nervous/app/servicetest"
)

func open(t *testing.T, url string) redis.UniversalClient {
	t.Helper()
	rdb, err := openRedis(redisStore{URL: url, Timeout: 5 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// scripted is that a server has every script after the first command, and that the command worked.
func scripted(t *testing.T, rdb redis.UniversalClient, server *servicetest.RedisServer) {
	t.Helper()
	require.NoError(t, rdb.Set(t.Context(), "a", "value", 0).Err())
	bare := redis.NewClient(server.Options())
	t.Cleanup(func() { _ = bare.Close() })
	for name, script := range mechanismScripts() {
		known, err := script.Exists(t.Context(), bare).Result()
		require.NoError(t, err)
		require.Equal(t, []bool{true}, known, name)
	}
}

func TestOpenRedis_EveryTopology(t *testing.T) {
	t.Parallel()
	t.Run("one server", func(t *testing.T) {
		t.Parallel()
		server := servicetest.Redis(t)
		scripted(t, open(t, server.URL()), server)
	})
	t.Run("TLS", func(t *testing.T) {
		t.Parallel()
		server := servicetest.RedisTLS(t)
		scripted(t, open(t, server.URL()), server)
	})
	t.Run("Unix socket", func(t *testing.T) {
		t.Parallel()
		server := servicetest.RedisSocket(t)
		scripted(t, open(t, server.URL()), server)
	})
	t.Run("Sentinel", func(t *testing.T) {
		t.Parallel()
		sentinel := servicetest.RedisSentinel(t)
		scripted(t, open(t, sentinel.URL()), sentinel.Nodes[0])
	})
	t.Run("Cluster", func(t *testing.T) {
		t.Parallel()
		cluster := servicetest.RedisCluster(t)
		owner, err := cluster.Owner(t.Context(), "a")
		require.NoError(t, err)
		scripted(t, open(t, cluster.URL()), owner)
	})
}

func TestOpenRedis_OptionsAreTheSameForAll(t *testing.T) {
	t.Parallel()
	one := open(t, "redis://127.0.0.1:1?max_retries=9&dial_timeout=9s").(*redis.Client).Options()
	through := open(t, "redis+sentinel://127.0.0.1:1?master_name=m&max_retries=9").(*redis.Client).Options()
	many := open(t, "redis+cluster://127.0.0.1:1?max_retries=9&read_timeout=9s").(*redis.ClusterClient).Options()
	type bounds struct {
		retries, dials    int
		dial, read, write time.Duration
		byContext, quiet  bool
	}
	want := bounds{-1, 1, 5 * time.Second, 5 * time.Second, 5 * time.Second, true, true}
	for _, o := range []*redis.Options{one, through} {
		got := bounds{o.MaxRetries, o.DialerRetries, o.DialTimeout, o.ReadTimeout, o.WriteTimeout,
			o.ContextTimeoutEnabled, o.DisableIdentity}
		if got.retries == 0 { // go-redis has replaced -1 by then
			got.retries = -1
		}
		require.Equal(t, want, got)
		require.EqualValues(t, "disabled", o.MaintNotificationsConfig.Mode)
	}
	require.Equal(t, want, bounds{many.MaxRetries, many.DialerRetries, many.DialTimeout, many.ReadTimeout,
		many.WriteTimeout, many.ContextTimeoutEnabled, many.DisableIdentity})
	require.EqualValues(t, "disabled", many.MaintNotificationsConfig.Mode)
	require.Equal(t, 3, many.MaxRedirects)
}

func TestOpenRedis_AUserWhoMayNotLoadScriptsCanWork(t *testing.T) {
	t.Parallel()
	server := servicetest.Redis(t)
	admin := open(t, server.URL())
	require.NoError(t, admin.Do(t.Context(), "ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-script").Err())
	require.NoError(t, admin.ScriptFlush(t.Context()).Err())
	rdb := open(t, "redis://app:pw@"+server.Addr())
	require.NoError(t, rdb.Set(t.Context(), "a", "b", 0).Err())
	for name, script := range mechanismScripts() {
		if err := script.Run(t.Context(), rdb, []string{"{x}1", "{x}2", "{x}3", "{x}4", "{x}5"}).Err(); err != nil {
			require.NotContains(t, err.Error(), "NOSCRIPT", name)
			require.NotContains(t, err.Error(), "NOPERM", name)
		}
	}
}

// A connection serves others after the caller that opened it.
func TestLoadScripts_IsNotBoundByTheCallersDeadline(t *testing.T) {
	t.Parallel()
	server := servicetest.Redis(t)
	bare := redis.NewClient(server.Options())
	t.Cleanup(func() { _ = bare.Close() })
	conn := bare.Conn()
	require.NoError(t, conn.Ping(t.Context()).Err())
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	require.NoError(t, loadScripts(mechanismScripts())(late, conn))
	for name, script := range mechanismScripts() {
		require.Equal(t, []bool{true}, script.Exists(t.Context(), bare).Val(), name)
	}
}

func TestOpenRedis_FaultsShowNoPassword(t *testing.T) {
	t.Parallel()
	_, err := openRedis(redisStore{URL: "redis://user:s3cret@host/x", Timeout: time.Second})
	require.ErrorContains(t, err, "REDIS_URL")
	require.NotContains(t, err.Error(), "s3cret")
	_, err = loadConfig(environment(map[string]string{
		"DATABASE_URL": "postgres://127.0.0.1/nervous", "REDIS_URL": "redis://user:s3c%ret@host", "TOKEN_SECRET": tokenSecret,
	}))
	require.ErrorContains(t, err, "REDIS_URL is not an address of Redis")
	require.ErrorContains(t, err, "redis+cluster://")
	require.NotContains(t, err.Error(), "s3c")
}

func TestRedisCheck_Verdict(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ url, info, want string }{
		"7.0":                {"redis://h", "redis_version:7.0.0\r\nredis_mode:standalone\r\n", ""},
		"8.10":               {"redis://h", "redis_version:8.10.1\r\n", ""},
		"10.0":               {"redis://h", "redis_version:10.0.0\r\n", ""},
		"6.2":                {"redis://h", "redis_version:6.2.14\r\n", "redis_version:6.2.14"},
		"6.2, the mend":      {"redis://h", "redis_version:6.2.14\r\n", "at least Redis 7.0, or Valkey"},
		"5 behind Sentinel":  {"redis+sentinel://h?master_name=m", "redis_version:5.0.0", "redis_version:5.0.0"},
		"6.2 in a Cluster":   {"redis+cluster://h", "redis_version:6.2.0\r\nredis_mode:cluster\r\n", "redis_version:6.2.0"},
		"Valkey":             {"redis://h", "redis_version:7.2.4\r\nvalkey_version:8.1.0\r\n", ""},
		"no version":         {"redis://h", "# Server\r\n", ""},
		"another's version":  {"redis://h", "redis_version:unstable\r\n", ""},
		"a Cluster":          {"redis+cluster://h", "redis_version:7.0.0\r\nredis_mode:cluster\r\n", ""},
		"a node of one":      {"redis://u:p@h:1/0", "redis_mode:cluster", "REDIS_URL=redis+cluster://h:1"},
		"with TLS":           {"rediss://h:1", "cluster_enabled:1", "REDIS_URL=rediss+cluster://h:1"},
		"Sentinel names one": {"redis+sentinel://h?master_name=m", "redis_mode:cluster", "redis+cluster://"},
		"a socket of one":    {"unix:///s", "redis_mode:cluster", "REDIS_URL=redis+cluster://HOST:PORT"},
		"a Sentinel":         {"redis://h:26379", "redis_mode:sentinel", "REDIS_URL=redis+sentinel://h:26379?master_name="},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, err := redisurl.Parse(test.url)
			require.NoError(t, err)
			err = redisCheck{address: address}.verdict(test.info)
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), "u:p")
		})
	}
}

func TestRedisCheck_RealServers(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, url string) (answered bool, err error) {
		t.Helper()
		c, err := newRedisCheck(open(t, url), redisStore{URL: url})
		require.NoError(t, err)
		return c.atStart(t.Context())
	}
	cluster, sentinel, server := servicetest.RedisCluster(t), servicetest.RedisSentinel(t), servicetest.Redis(t)
	for _, url := range []string{cluster.URL(), sentinel.URL(), server.URL()} {
		answered, err := check(t, url)
		require.NoError(t, err, url)
		require.True(t, answered, url)
	}
	_, err := check(t, "redis://"+cluster.Nodes[1].Addr())
	require.ErrorContains(t, err, "REDIS_URL=redis+cluster://"+cluster.Nodes[1].Addr())
	_, err = check(t, "redis+cluster://"+server.Addr())
	require.ErrorContains(t, err, "REDIS_URL="+server.URL())
	_, err = check(t, "redis://"+sentinel.Sentinels[0].Addr())
	require.ErrorContains(t, err, "REDIS_URL=redis+sentinel://"+sentinel.Sentinels[0].Addr())

	admin := open(t, server.URL())
	require.NoError(t, admin.Do(t.Context(), "ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-info").Err())
	answered, err := check(t, "redis://app:pw@"+server.Addr())
	require.NoError(t, err)
	require.True(t, answered, "INFO is refused, and the rest works")

	require.NoError(t, server.Kill())
	answered, err = check(t, server.URL())
	require.NoError(t, err, "away at the start is like away later")
	require.False(t, answered)
}

// A Redis that comes after the start is checked then, and a wrong one is logged once.
func TestRedisCheck_Later(t *testing.T) {
	t.Parallel()
	cluster := servicetest.RedisCluster(t)
	node := cluster.Nodes[0]
	c, err := newRedisCheck(open(t, node.URL()), redisStore{URL: node.URL()})
	require.NoError(t, err)
	require.NoError(t, node.Kill())
	answered, err := c.atStart(t.Context())
	require.NoError(t, err)
	require.False(t, answered)
	ended := make(chan struct{})
	go func() { defer close(ended); c.later(t.Context()) }()
	require.NoError(t, node.Restart(t.Context()))
	<-ended
	_, wrong := errors.AsType[*wrongServerError](c.ask(t.Context()))
	require.True(t, wrong)
}

func TestServe_RefusesANodeOfAClusterBehindTheURLOfOneServer(t *testing.T) {
	t.Parallel()
	node := servicetest.RedisCluster(t).Nodes[0]
	variables := map[string]string{
		"DATABASE_URL": servicetest.Postgres(t), "REDIS_URL": node.URL(), "TOKEN_SECRET": tokenSecret,
		"LISTEN_ADDR": "127.0.0.1:0",
	}
	for _, command := range []string{"serve", "reconcile"} {
		process := exec.CommandContext(t.Context(), os.Args[0])
		process.Env = append(os.Environ(), commandVariable+"="+command)
		for variable, value := range variables {
			process.Env = append(process.Env, variable+"="+value)
		}
		output, err := process.CombinedOutput()
		require.Error(t, err, command)
		require.Contains(t, string(output), "REDIS_URL=redis+cluster://"+node.Addr(), command)
	}
}
