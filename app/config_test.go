package main

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
	require.Equal(t, trending.Lease, c.Trending.Strategy)
	require.Equal(t, 10*time.Minute, c.Trending.TTL)
	require.Equal(t, reconcileConfig{
		Strategy: reconcile.Buffered, Every: time.Hour, FlushAge: time.Second, FlushSize: 50_000,
	}, c.Reconcile)
	require.NotEmpty(t, c.ReplicaID)
	require.False(t, c.AllowStrategyOverride)
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
		"RECONCILE_COUNT_EVERY": "-1s",
		"TOKEN_SECRET":          "31 bytes are one byte too few..",
	}))
	require.Error(t, err)
	for _, line := range []string{
		"15 fault(s)",
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
		"- RECONCILE_COUNT_EVERY must be 0, which is never, or at least 1s",
		"- TOKEN_SECRET has 31 bytes and must have at least 32",
	} {
		require.ErrorContains(t, err, line)
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

	variables["ALLOW_STRATEGY_OVERRIDE"] = "true"
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
