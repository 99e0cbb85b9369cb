package dashboards_test

import (
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/loadtest"
)

// A number changes its colour where the promise ends. Lines of objectives in graphs are series of their own, the rule
// `objective`, and need no such care.
func TestColoursChangeWhereObjectivesEnd(t *testing.T) {
	t.Parallel()
	promised, err := loadtest.Objectives()
	require.NoError(t, err)
	panels := map[string]panel{}
	for _, d := range load(t) {
		for _, p := range d.graphs() {
			panels[d.UID+", "+p.Title] = p
		}
	}
	for where, limit := range map[string]float64{
		"overview, Share that fails":         1 - promised["trending_availability"],
		"overview, p95 now":                  promised["trending_latency_bound"],
		"trending, Lease: p95 of all":        promised["trending_latency_bound"],
		"reconcile, The oldest waits":        promised["buffer_age"],
		"ratelimit, Degraded":                promised["ratelimit_degraded"],
		"roundtrips, Buffered: DB trips":     promised["buffered_db_round_trips"],
		"loadtest, What callers feel (p95)":  promised["trending_latency_bound"],
		"loadtest, Failed":                   1 - promised["trending_availability"],
		"loadtest, What did each phase get?": promised["trending_latency_bound"], // the column of hits
	} {
		require.Contains(t, slices.Collect(maps.Keys(panels)), where)
		require.NotZero(t, limit, "%s: there is no such objective", where)
		require.True(t, slices.ContainsFunc(panels[where].FieldConfig.Defaults.Thresholds.Steps, func(s step) bool {
			return s.Value != nil && math.Abs(*s.Value-limit) < 1e-9
		}), "%s: no colour begins at %v", where, limit)
	}
}
