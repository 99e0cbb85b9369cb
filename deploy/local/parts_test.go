package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// TestSettingsAreThoseOfCompose keeps the two ways up from drifting apart: what they measure must be the same thing.
func TestSettingsAreThoseOfCompose(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docker-compose.yml")
	require.NoError(t, err)
	var compose struct {
		Services map[string]struct {
			Command     []string
			Environment yaml.Node
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &compose))

	postgres := map[string]string{}
	for _, argument := range compose.Services["postgres"].Command[1:] {
		name, value, _ := strings.Cut(strings.TrimPrefix(argument, "-c"), "=")
		postgres[name] = value
	}
	require.Equal(t, postgres, postgresSettings)

	redis := map[string]string{}
	for _, argument := range compose.Services["redis"].Command[1:] {
		name, value, _ := strings.Cut(strings.TrimPrefix(argument, "--"), " ")
		redis[name] = strings.Trim(value, `"`)
	}
	require.Equal(t, redis, redisSettings)

	app, service := map[string]string{}, compose.Services["app"]
	require.NoError(t, service.Environment.Decode(&app))
	replica := (&deployment{}).replica(0).env
	for _, name := range []string{"TRUSTED_HOPS", "RATELIMIT_BUDGET", "RECONCILE_EVERY", "RECONCILE_COUNT_EVERY"} {
		require.Contains(t, replica, name+"="+app[name])
	}

	prometheus := slices.DeleteFunc(compose.Services["prometheus"].Command, func(argument string) bool {
		return strings.HasPrefix(argument, "--config.file=") || strings.HasPrefix(argument, "--storage.tsdb.path=")
	})
	require.Equal(t, prometheus, prometheusFlags)

	k6, load := map[string]string{}, compose.Services["k6"]
	require.NoError(t, load.Environment.Decode(&k6))
	for _, ofItsOwn := range []string{
		"BASE_URL", "TOKEN_SECRET", "RESULTS", "K6_OUT", "K6_OTEL_HTTP_EXPORTER_ENDPOINT", "GOMEMLIMIT",
	} {
		delete(k6, ofItsOwn)
	}
	require.Equal(t, k6, k6Settings)
}
