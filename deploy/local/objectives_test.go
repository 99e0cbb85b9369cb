package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/loadtest"
)

// A claim that is an objective ends where the objective does.
func TestClaimsAreThoseOfTheObjectives(t *testing.T) {
	t.Parallel()
	promised, err := loadtest.Objectives()
	require.NoError(t, err)

	holds := map[string]func(float64) bool{}
	for _, c := range claims(measured(t, asPromised)) {
		holds[c.id] = c.holds
	}
	const more, less = 1, -1 // what is worse
	for id, end := range map[string]struct {
		objective string
		scale     float64
		worse     float64
	}{
		"trending.n_plus_one.db_round_trips_per_request": {"n_plus_one_db_round_trips", 1, more},
		"trending.preload.db_round_trips_per_request":    {"preload_db_round_trips", 1, more},
		"trending.lease.db_round_trips_per_hit":          {"hit_db_round_trips", 1, more},
		"trending.lease.fills":                           {"trending_fills", 1, more},
		"trending.lease.hit_p95_ms":                      {"trending_latency_bound", 1000, more},
		"reconcile.buffered.db_round_trips":              {"buffered_db_round_trips", 1, more},
		"reconcile.buffered.redis_round_trips":           {"buffered_redis_round_trips", 1, more},
		"reconcile.buffered.speedup_over_n_plus_one":     {"buffered_speedup", 1, less},
		"reconcile.buffered.ratio_to_single_statement":   {"buffered_to_single_statement", 1, more},
		"ratelimit.exact.worst_window":                   {"ratelimit_requests", 1, more},
		"audit.spans_dropped":                            {"spans_lost", 1, more},
	} {
		require.Contains(t, holds, id)
		require.Contains(t, promised, end.objective)
		number := promised[end.objective] * end.scale
		require.False(t, holds[id](number+end.worse*0.01), "%s holds beyond %s", id, end.objective)
		// `Below 200` ends there as `at most 60` does.
		require.True(t, holds[id](number) || holds[id](number-end.worse*0.01), "%s ends before %s", id, end.objective)
	}
}
