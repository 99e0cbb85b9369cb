package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// asPromised is what the load script writes when everything is as the article says.
const asPromised = `{
  "script": "trending", "thresholds_passed": true,
  "phases": {
    "alone":      {"strategy": "preload", "requests": 3, "p50_ms": 1234.5678},
    "n_plus_one": {"strategy": "n_plus_one", "requests": 20, "db_round_trips_median": 11},
    "preload":    {"strategy": "preload", "requests": 20, "db_round_trips_median": 2},
    "ttl":        {"strategy": "ttl", "requests": 20, "failed": 0, "fills": 20},
    "lease_1000": {"strategy": "lease", "requests": 1000, "fills": 1},
    "spike":      {"strategy": "lease", "requests": 6000, "db_round_trips_median_hit": 0, "hit_p95_ms": 12.3}
  }
}`

func results(t *testing.T, text string) loadResults {
	path := filepath.Join(t.TempDir(), "trending.json")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	found, err := readResults(path)
	require.NoError(t, err)
	return found
}

func TestEveryClaimHoldsWhenAllIsAsPromised(t *testing.T) {
	t.Parallel()
	verdicts := judge(measurements{ready: 42 * time.Second, phases: results(t, asPromised).Phases})
	require.Empty(t, broken(verdicts))
	table := claimsTable(verdicts)
	require.Contains(t, table, "(reported)   1235 ms          reported\n")
	require.Contains(t, table, "below 200 ms            12.3 ms          holds\n")
}

func TestAClaimBreaksWhereItShould(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		id       string
		phase    string
		field    string
		measured float64
	}{
		{"trending.n_plus_one.db_round_trips_per_request", "n_plus_one", "db_round_trips_median", 12},
		{"trending.preload.db_round_trips_per_request", "preload", "db_round_trips_median", 3},
		{"trending.lease.db_round_trips_per_hit", "spike", "db_round_trips_median_hit", 1},
		{"trending.ttl.fills", "ttl", "fills", 1},
		{"trending.lease.fills", "lease_1000", "fills", 2},
		{"trending.lease.fills", "lease_1000", "fills", 0},
		{"trending.lease.hit_p95_ms", "spike", "hit_p95_ms", 200},
	} {
		t.Run(c.id, func(t *testing.T) {
			t.Parallel()
			var found map[string]any
			require.NoError(t, json.Unmarshal([]byte(asPromised), &found))
			found["phases"].(map[string]any)[c.phase].(map[string]any)[c.field] = c.measured
			changed, err := json.Marshal(found)
			require.NoError(t, err)
			verdicts := judge(measurements{ready: time.Second, phases: results(t, string(changed)).Phases})
			require.Equal(t, []string{c.id}, broken(verdicts))
		})
	}
	slow := judge(measurements{ready: time.Minute, phases: results(t, asPromised).Phases})
	require.Equal(t, []string{"deploy.ready_seconds"}, broken(slow))
}

func TestWhatWasNotMeasuredDoesNotHold(t *testing.T) {
	t.Parallel()
	verdicts := judge(measurements{ready: time.Second, phases: map[string]phase{}})
	require.Len(t, broken(verdicts), len(claims())-1)
	require.Contains(t, claimsTable(verdicts), "nothing")
}
