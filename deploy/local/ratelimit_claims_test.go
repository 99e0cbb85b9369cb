package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// asLimited is what loadtest/ratelimit.js writes when everything is as the article says.
const asLimited = `{
  "script": "ratelimit", "thresholds_passed": true, "citizens_p95_ratio": 1.1,
  "phases": {
    "fixed_window": {"worst_window": 200}, "exact": {"worst_window": 100},
    "abuser": {"redis_round_trips_median_denied": 0}, "crowd": {"redis_round_trips_median_admitted": 1}
  }
}`

func TestAClaimOfTheRateLimiterBreaksWhereItShould(t *testing.T) {
	t.Parallel()
	for id, changed := range map[string][2]string{
		"ratelimit.fixed_window.worst_window":                     {`: 200`, `: 100`},
		"ratelimit.exact.worst_window (one more)":                 {`window": 100`, `window": 101`},
		"ratelimit.exact.worst_window (not reached)":              {`window": 100`, `window": 99`},
		"ratelimit.exact.redis_round_trips_per_check":             {`admitted": 1`, `admitted": 2`},
		"ratelimit.exact.redis_round_trips_per_remembered_denial": {`denied": 0`, `denied": 1`},
		"ratelimit.citizens_p95_ratio (not measured)":             {`"citizens_p95_ratio": 1.1,`, ``},
	} {
		m := measured(t, asPromised)
		m.limiting = results[limiting](t, strings.Replace(asLimited, changed[0], changed[1], 1))
		want, _, _ := strings.Cut(id, " ")
		require.Equal(t, []string{want}, broken(judge(m)), id)
	}
}
