package main

import (
	"context"
	"path/filepath"
)

// limiting is the file that loadtest/ratelimit.js leaves, as far as a claim needs it.
type limiting struct {
	Phases           map[string]limited `json:"phases"`
	CitizensP95Ratio *float64           `json:"citizens_p95_ratio"`
	ThresholdsPassed bool               `json:"thresholds_passed"`
}

// limited is what became of the requests of one phase.
type limited struct {
	WorstWindow          *float64 `json:"worst_window"`
	RedisTripsOfAdmitted *float64 `json:"redis_round_trips_median_admitted"`
	RedisTripsOfDenied   *float64 `json:"redis_round_trips_median_denied"`
}

// limit runs the load script of the rate limiter.
func (d *deployment) limit(ctx context.Context) (limiting, error) {
	d.say("the rate limit: bursts around the end of a minute, an abuser, a crowd. One to two minutes")
	results := filepath.Join(d.dir, "ratelimit.json")
	return load[limiting](ctx, d, d.loadScript("k6 ratelimit", "ratelimit.js", results), results)
}
