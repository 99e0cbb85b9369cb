package main

import (
	"context"
	"path/filepath"
)

// limiting is what a run finds out about the rate limiter.
type limiting struct {
	limitResults

	degraded *float64 // decisions without Redis; nil where Prometheus does not know
}

// limitResults is the file that loadtest/ratelimit.js leaves, as far as a claim needs it.
type limitResults struct {
	Phases           map[string]limited `json:"phases"`
	CitizensP95Ratio *float64           `json:"citizens_p95_ratio"`
	ThresholdsPassed bool               `json:"thresholds_passed"`
}

// limited is what became of the requests of one phase.
type limited struct {
	Requests             float64  `json:"requests"`
	WorstWindow          *float64 `json:"worst_window"`
	RedisTripsOfAdmitted *float64 `json:"redis_round_trips_median_admitted"`
	RedisTripsOfDenied   *float64 `json:"redis_round_trips_median_denied"`
}

// limit runs the load script of the rate limiter.
func (d *deployment) limit(ctx context.Context) (limiting, error) {
	d.say("the rate limit: bursts around the end of a minute, an abuser, a crowd. One to two minutes")
	before, err := d.decided(ctx)
	if err != nil {
		return limiting{}, err
	}
	results := filepath.Join(d.dir, "ratelimit.json")
	found, err := load[limitResults](ctx, d, d.loadScript("k6 ratelimit", "ratelimit.js", results), results)
	if err != nil {
		return limiting{}, err
	}
	return limiting{found, d.degraded(ctx, before, found)}, nil
}

// decided is how many requests were admitted or denied so far, and how many of them without Redis.
type decided struct{ all, degraded float64 }

func (d *deployment) decided(ctx context.Context) (decided, error) {
	all, err := d.counted(ctx, `ratelimit_decisions_total{policy="overall"}`)
	if err != nil {
		return decided{}, err
	}
	degraded, err := d.counted(ctx, `ratelimit_decisions_total{policy="overall",degraded="true"}`)
	return decided{all, degraded}, err
}

// degraded returns how many requests of the load script were decided without Redis, because it did not answer in time:
// none of those is known to it, so they come on top of what it admits. It is nil where that was not told.
func (d *deployment) degraded(ctx context.Context, before decided, found limitResults) *float64 {
	var sent float64
	for _, phase := range found.Phases {
		sent += phase.Requests
	}
	var now decided
	told := onceCounted(ctx, func(ctx context.Context) bool {
		var err error
		now, err = d.decided(ctx)
		return err == nil && now.all-before.all >= sent
	})
	if !told {
		return nil
	}
	return new(now.degraded - before.degraded)
}
