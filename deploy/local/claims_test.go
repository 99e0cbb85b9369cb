package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
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
    "limiter_on":  {"strategy": "lease", "requests": 1500, "hit_p50_ms": 1.2, "hit_p95_ms": 2.7},
    "limiter_off": {"strategy": "lease", "requests": 1500, "hit_p50_ms": 0.8, "hit_p95_ms": 1.5},
    "spike":      {"strategy": "lease", "requests": 6000, "db_round_trips_median_hit": 0, "hit_p95_ms": 12.3},
    "refresh":    {"strategy": "lease", "requests": 1620, "hits": 1620, "renewals": 3}
  }
}`

func results[results any](t *testing.T, text string) results {
	path := filepath.Join(t.TempDir(), "results.json")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	found, err := readResults[results](path)
	require.NoError(t, err)
	return found
}

// measured is a run in which only what the load script found is open.
func measured(t *testing.T, text string) measurements {
	return measurements{
		ready: 42 * time.Second, phases: results[loadResults](t, text).Phases,
		waiterDelayP99: new(7.5), waiterDelayP99Of1000: new(140.0),
		takeover:    &takeover{took: 3500 * time.Millisecond, fill: 1200 * time.Millisecond, fills: 1},
		reconciling: reconciled(t, asReconciled),
		limiting:    results[limiting](t, asLimited),
		audited:     asTraced(),
		shown:       &shown{},
	}
}

func TestEveryClaimHoldsWhenAllIsAsPromised(t *testing.T) {
	t.Parallel()
	verdicts := judge(measured(t, asPromised))
	require.Empty(t, broken(verdicts))
	table := claimsTable(verdicts)
	require.Regexp(t, `two cores \(reported\) +1235 ms +reported\n`, table)
	require.Regexp(t, `below 200 ms +12.3 ms +holds\n`, table)
	require.Regexp(t, `so many times as long \(reported\) +1.5 times +reported\n`, table)
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
		{"trending.lease.waited_during_refresh", "refresh", "hits", 1619},
		{"trending.lease.waited_during_refresh", "refresh", "renewals", 1},
	} {
		t.Run(c.id, func(t *testing.T) {
			t.Parallel()
			var found map[string]any
			require.NoError(t, json.Unmarshal([]byte(asPromised), &found))
			found["phases"].(map[string]any)[c.phase].(map[string]any)[c.field] = c.measured
			changed, err := json.Marshal(found)
			require.NoError(t, err)
			require.Equal(t, []string{c.id}, broken(judge(measured(t, string(changed)))))
		})
	}
	for id, spoil := range map[string]func(*measurements){
		"deploy.ready_seconds":                func(m *measurements) { m.ready = time.Minute },
		"trending.lease.waiter_delay_p99_ms":  func(m *measurements) { m.waiterDelayP99 = new(50.0) },
		"trending.lease.takeover_ms":          func(m *measurements) { m.takeover.took = 4200 * time.Millisecond },
		"trending.lease.takeover_ms (nobody)": func(m *measurements) { m.takeover.took = 0 },
		"trending.lease.takeover_ms (fills)":  func(m *measurements) { m.takeover.fills = 2 },
		"trending.lease.takeover_ms (failed)": func(m *measurements) { m.takeover.failed = 1 },
		"trending.lease.takeover_ms (no one)": func(m *measurements) { m.takeover = nil },
	} {
		m := measured(t, asPromised)
		spoil(&m)
		want, _, _ := strings.Cut(id, " ")
		require.Equal(t, []string{want}, broken(judge(m)), id)
	}
}

func TestWithoutTwoRefreshesNothingWasWaitedFor(t *testing.T) {
	t.Parallel()
	require.Nil(t, waitedDuringRefresh(phase{Requests: new(100.0), Hits: new(100.0), Renewals: new(1.0)}))
	require.Nil(t, waitedDuringRefresh(phase{}))
	require.InDelta(t, 3, *waitedDuringRefresh(phase{Requests: new(100.0), Hits: new(97.0), Renewals: new(2.0)}), 0)
}

func TestRunsOfTheLoadScriptAddUp(t *testing.T) {
	t.Parallel()
	first := results[loadResults](t, `{"thresholds_passed": true, "phases": {"spike": {"waits": 40}, "lease": {}}}`)
	second := results[loadResults](t, `{"thresholds_passed": false, "phases": {"refresh": {"waits": 2}}}`)
	both := first.and(second)
	require.InDelta(t, 40, *both.Phases["spike"].Waits, 0)
	require.Contains(t, both.Phases, "refresh")
	require.False(t, both.ThresholdsPassed)
}

func TestWhatWasNotMeasuredDoesNotHold(t *testing.T) {
	t.Parallel()
	verdicts := judge(measurements{ready: time.Second, phases: map[string]phase{}})
	require.Len(t, broken(verdicts), len(claims(measurements{}))-1)
	require.Contains(t, claimsTable(verdicts), "nothing")
}
