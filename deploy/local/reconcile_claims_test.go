package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// asReconciled is what loadtest/reconcile.js writes when everything is as the article says.
const asReconciled = `{
  "script": "reconcile", "thresholds_passed": true,
  "phases": {
    "n_plus_one": {"payments": 50000, "reconciled": 48500, "db_round_trips": 98525, "scaled": null},
    "buffered":   {"payments": 50000, "reconciled": 48500, "db_round_trips": 31, "redis_round_trips": 41}
  },
  "live": {"requests": 6000, "seconds": 20, "events_per_second": 300, "lost": 0},
  "buffered_speedup_over_n_plus_one": 60.5, "buffered_ratio_to_single_statement": 1.5
}`

// reconciled is a run in which only what the load script found is open.
func reconciled(t *testing.T, text string) reconciling {
	return reconciling{
		reconcileResults: results[reconcileResults](t, text), commitLatency: new(0.9), liveDBTrips: new(3.3),
		handover: &handover{worker: "app-1", job: job{State: "done", Attempts: 2, Replica: "app-3"}, bytesPerPayment: 40},
	}
}

func TestAClaimOfTheBufferBreaksWhereItShould(t *testing.T) {
	t.Parallel()
	for id, changed := range map[string][2]string{
		"reconcile.n_plus_one.db_round_trips":            {`"db_round_trips": 98525`, `"db_round_trips": 98499`},
		"reconcile.buffered.db_round_trips":              {`"db_round_trips": 31`, `"db_round_trips": 61`},
		"reconcile.buffered.redis_round_trips":           {`"redis_round_trips": 41`, `"redis_round_trips": 81`},
		"reconcile.buffered.speedup_over_n_plus_one":     {`n_plus_one": 60.5`, `n_plus_one": 9.9`},
		"reconcile.buffered.ratio_to_single_statement":   {`statement": 1.5`, `statement": 3.1`},
		"reconcile.live.events_per_second (one is lost)": {`"lost": 0`, `"lost": 1`},
	} {
		m := measured(t, asPromised)
		m.reconciling = reconciled(t, strings.Replace(asReconciled, changed[0], changed[1], 1))
		want, _, _ := strings.Cut(id, " ")
		require.Equal(t, []string{want}, broken(judge(m)), id)
	}
}

func TestNothingIsLostOnlyIfAnotherFinishedTheJob(t *testing.T) {
	t.Parallel()
	both := []string{"reconcile.lost", "reconcile.wrongly_marked"}
	for name, c := range map[string]struct {
		spoil func(*handover)
		want  []string
	}{
		"one is lost":               {func(h *handover) { h.lost = 1 }, both[:1]},
		"one is wrongly marked":     {func(h *handover) { h.wronglyMarked = 1 }, both[1:]},
		"nobody took over":          {func(h *handover) { h.job.State, h.job.Attempts = "failed", 1 }, both},
		"the dead one did it":       {func(h *handover) { h.job.Replica = h.worker }, both},
		"it was over when it died":  {func(h *handover) { h.job.Attempts = 1 }, both},
		"the second attempt failed": {func(h *handover) { h.job.State = "failed" }, both},
	} {
		m := measured(t, asPromised)
		c.spoil(m.reconciling.handover)
		require.Equal(t, c.want, broken(judge(m)), name)
	}
	m := measured(t, asPromised)
	m.reconciling.handover = nil
	require.Subset(t, broken(judge(m)), both, "nobody was killed")
}

func TestWhatIsScaledIsNoMeasurement(t *testing.T) {
	t.Parallel()
	m := measured(t, asPromised)
	m.reconciling = reconciled(t, strings.Replace(asReconciled, `"scaled": null`, `"scaled": {"payments": 50000}`, 1))
	require.Equal(t, []string{
		"reconcile.n_plus_one.db_round_trips", "reconcile.buffered.speedup_over_n_plus_one",
	}, broken(judge(m)))
}
