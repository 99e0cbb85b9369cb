package main

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/ratelimit"
	"nervous/app/reconcile"
	"nervous/app/trending"
)

func environment(variables map[string]string) func(string) string {
	return func(name string) string { return variables[name] }
}

const tokenSecret = "a secret of the tests, long enough"

func TestTwoAddressesAndASecretAreEnough(t *testing.T) {
	t.Parallel()
	c, err := loadConfig(environment(map[string]string{
		"DATABASE_URL": "postgres://127.0.0.1/nervous", "REDIS_URL": "redis://127.0.0.1:6379", "TOKEN_SECRET": tokenSecret,
	}))
	require.NoError(t, err)
	require.Equal(t, ":8080", c.ListenAddr)
	require.Equal(t, "nervous", c.Redis.Namespace)
	require.Equal(t, trending.Lease, c.Trending.Strategy)
	require.Equal(t, 10*time.Minute, c.Trending.TTL)
	require.Equal(t, reconcileConfig{
		Strategy: reconcile.Buffered, Every: time.Hour, FlushAge: time.Second, FlushSize: 25_000, BufferSize: 1_000_000,
	}, c.Reconcile)
	require.Equal(t, rateLimitConfig{
		Limit: 100, Window: time.Minute, RunsLimit: 30, RunsWindow: time.Minute,
		EventsLimit: 6_000, EventsWindow: time.Minute,
		Strategy: ratelimit.Exact, Fallback: ratelimit.Local, Budget: 50 * time.Millisecond,
	}, c.RateLimit)
	require.Empty(t, c.TrustedProxies, "X-Forwarded-For is not read")
	require.NotEmpty(t, c.ReplicaID)
	require.False(t, c.Demo.On)
	require.Equal(t, "127.0.0.1:8091", c.AdminAddr)
	require.Equal(t, 2*time.Second, c.ShutdownDelay)
}

func TestEveryFaultIsListedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := loadConfig(environment(map[string]string{
		"DATABASE_MAX_CONNS":    "none",
		"REDIS_URL":             "http://example.org",
		"REDIS_TIMEOUT":         "-1s",
		"REQUEST_TIMEOUT":       "10s",
		"TRENDING_LOAD_TIMEOUT": "10s",
		"TRENDING_STRATEGY":     "magic",
		"TRENDING_TTL":          "10",
		"TRENDING_TTL_JITTER":   "1",
		"LOG_LEVEL":             "loud",
		"RECONCILE_STRATEGY":    "magic",
		"RECONCILE_EVERY":       "59s",
		"RECONCILE_FLUSH_AGE":   "9ms",
		"RECONCILE_FLUSH_SIZE":  "0",
		"RECONCILE_BUFFER_SIZE": "-1",
		"RECONCILE_COUNT_EVERY": "-1s",
		"RATELIMIT_LIMIT":       "0",
		"RATELIMIT_WINDOW":      "90500ms",
		"RATELIMIT_RUNS_LIMIT":  "10001",
		"RATELIMIT_RUNS_WINDOW": "25h",

		"RATELIMIT_EVENTS_LIMIT":  "-1",
		"RATELIMIT_EVENTS_WINDOW": "0",
		"DATABASE_DIRECT_URL":     "postgres://clerk:secret@[::1/nervous",

		"RATELIMIT_STRATEGY": "magic",
		"RATELIMIT_FALLBACK": "hope",
		"RATELIMIT_BUDGET":   "0",
		"TRUSTED_PROXIES":    "10.0.0.0/8,10.0.0.1",
		"TRUSTED_HOPS":       "0",
		"TOKEN_SECRET":       "31 bytes are one byte too few..",
	}))
	require.Error(t, err)
	for _, line := range []string{
		"28 fault(s)",
		"- DATABASE_URL is required and not set\n",
		`- DATABASE_MAX_CONNS is "none": `,
		"- REDIS_URL is not an address of Redis: ",
		"- REDIS_TIMEOUT must be positive\n",
		"- TRENDING_LOAD_TIMEOUT must be positive and below REQUEST_TIMEOUT",
		`- TRENDING_STRATEGY is "magic": there is no strategy "magic", only n_plus_one, preload, ttl, lease` + "\n",
		`- TRENDING_TTL is "10": `,
		"- TRENDING_TTL_JITTER must be from 0 to below 1\n",
		`- LOG_LEVEL is "loud": `,
		`- RECONCILE_STRATEGY is "magic": there is no strategy "magic", only n_plus_one, batched_reads, buffered, `,
		"- RECONCILE_EVERY must be 0, which is never, or at least 1m\n",
		"- RECONCILE_FLUSH_AGE must be at least 10ms\n",
		"- RECONCILE_FLUSH_SIZE must be at least 1\n",
		"- RECONCILE_BUFFER_SIZE must be at least 1\n",
		"- RATELIMIT_EVENTS_LIMIT must be from 0 to 10000\n",
		"- RATELIMIT_EVENTS_WINDOW must be whole seconds, at least 1s and at most 24h\n",
		"- DATABASE_DIRECT_URL is not a connection string: ",
		"- RECONCILE_COUNT_EVERY must be 0, which is never, or at least 1s",
		"- RATELIMIT_LIMIT must be from 1 to 10000\n",
		"- RATELIMIT_WINDOW must be whole seconds, at least 1s and at most 24h\n",
		"- RATELIMIT_RUNS_LIMIT must be from 0 to 10000\n",
		"- RATELIMIT_RUNS_WINDOW must be whole seconds, at least 1s and at most 24h\n",
		`- RATELIMIT_STRATEGY is "magic": there is no strategy "magic", only fixed_window, exact` + "\n",
		`- RATELIMIT_FALLBACK is "hope": there is no fallback "hope", only local, open, closed` + "\n",
		"- RATELIMIT_BUDGET must be at least 1ms\n",
		`- TRUSTED_PROXIES is "10.0.0.0/8,10.0.0.1": `,
		"- TRUSTED_HOPS is 0 and must be from 1 to 10\n",
		"- TOKEN_SECRET has 31 bytes and must have at least 32",
	} {
		require.ErrorContains(t, err, line)
	}
	require.NotContains(t, err.Error(), "secret@")
	require.NotContains(t, err.Error(), ":secret")
}

func TestConfig_NamespaceIsTheDatabaseUnlessSet(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ database, namespace, want string }{
		{"postgres://127.0.0.1/shop", "", "shop"},
		{"postgres://clerk@127.0.0.1", "", "clerk"}, // Postgres takes the user's name then
		{"postgres://127.0.0.1/shop", "shop-staging", "shop-staging"},
	} {
		variables := environment(map[string]string{
			"DATABASE_URL": test.database, "REDIS_URL": "redis://127.0.0.1:6379", "TOKEN_SECRET": tokenSecret,
			"REDIS_NAMESPACE": test.namespace,
		})
		c, err := loadConfig(variables)
		require.NoError(t, err)
		require.Equal(t, test.want, c.Redis.Namespace)
		j, err := loadJobConfig(variables)
		require.NoError(t, err)
		require.Equal(t, test.want, j.Redis.Namespace)
	}
}

func TestConfig_TrustedProxiesAndHops(t *testing.T) {
	t.Parallel()
	load := func(proxies, hops string) (config, error) {
		return loadConfig(environment(map[string]string{
			"DATABASE_URL": "postgres://127.0.0.1/nervous", "REDIS_URL": "redis://127.0.0.1:6379", "TOKEN_SECRET": tokenSecret,
			"TRUSTED_PROXIES": proxies, "TRUSTED_HOPS": hops,
		}))
	}
	for hops, want := range map[string]int{"": 1, "1": 1, "2": 2, "10": 10} {
		c, err := load("10.0.0.0/8,fd00::/8", hops)
		require.NoError(t, err)
		require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
			c.TrustedProxies)
		require.Equal(t, want, c.TrustedHops)
	}
	for _, refused := range []struct{ proxies, hops, fault string }{
		{"", "1", "TRUSTED_HOPS has no effect without TRUSTED_PROXIES: set the networks of the proxies, or remove "},
		{"10.0.0.0/8", "0", "TRUSTED_HOPS is 0 and must be from 1 to 10"},
		{"10.0.0.0/8", "-1", "TRUSTED_HOPS is -1 and must be from 1 to 10"},
		{"10.0.0.0/8", "11", "TRUSTED_HOPS is 11 and must be from 1 to 10"},
		{"10.0.0.0/8", "one", `TRUSTED_HOPS is "one": `},
		{"10.0.0.1", "1", `TRUSTED_PROXIES is "10.0.0.1": `},
	} {
		_, err := load(refused.proxies, refused.hops)
		require.ErrorContains(t, err, "1 fault(s):\n  - "+refused.fault)
	}
}

func TestThePublishedSecretIsForDemosOnly(t *testing.T) {
	t.Parallel()
	variables := map[string]string{
		"DATABASE_URL": "postgres://127.0.0.1/nervous", "REDIS_URL": "redis://127.0.0.1:6379",
		"TOKEN_SECRET": string(demoSecret),
	}
	_, err := loadConfig(environment(variables))
	require.ErrorContains(t, err, "1 fault(s):\n  - TOKEN_SECRET is the demo's, which is published: ")

	variables["DEMO"] = "true"
	_, err = loadConfig(environment(variables))
	require.NoError(t, err)

	// Another literal there would be published too, and not refused.
	for _, path := range []string{"../.env", "../deploy/local/parts.go", "../loadtest/lib/token.js"} {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Contains(t, string(text), demoSecret, path)
	}
}

func TestTheConfigurationDoesNotShowItsSecret(t *testing.T) {
	t.Parallel()
	c, err := loadConfig(environment(map[string]string{
		"DATABASE_URL": "postgres://127.0.0.1/nervous", "REDIS_URL": "redis://127.0.0.1:6379", "TOKEN_SECRET": tokenSecret,
	}))
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", c, c, c), tokenSecret)
	require.EqualValues(t, tokenSecret, c.Tokens.Secret)
}
