package main

import (
	"context"
	"path/filepath"
	"time"
)

// reconciling is what a run finds out about the write buffer.
type reconciling struct {
	reconcileResults

	commitLatency *float64  // in milliseconds
	liveDBTrips   *float64  // a second; nil where Prometheus does not know
	handover      *handover // nil where no worker could be killed in the middle of its job
}

// reconcileResults is the file that loadtest/reconcile.js leaves, as far as a claim needs it.
type reconcileResults struct {
	Strategies             map[string]compared `json:"phases"`
	Live                   liveEvents          `json:"live"`
	SpeedupOverNPlusOne    *float64            `json:"buffered_speedup_over_n_plus_one"`
	RatioToSingleStatement *float64            `json:"buffered_ratio_to_single_statement"`
	ThresholdsPassed       bool                `json:"thresholds_passed"`
}

// compared is one strategy's row of the comparison.
type compared struct {
	Payments        float64  `json:"payments"`
	Reconciled      float64  `json:"reconciled"`
	DBRoundTrips    *float64 `json:"db_round_trips"`
	RedisRoundTrips *float64 `json:"redis_round_trips"`
	Scaled          any      `json:"scaled"` // nil where the job ran on all payments
}

// liveEvents is what became of the events that came one a request.
type liveEvents struct {
	Requests        float64  `json:"requests"`
	Direct          float64  `json:"direct"` // went to Postgres one by one
	DBRoundTrips    float64  `json:"db_round_trips_total"`
	Seconds         float64  `json:"seconds"`
	EventsPerSecond *float64 `json:"events_per_second"`
	Lost            *float64 `json:"lost"`
}

// settled returns how many a second came and were marked in the end; nil if one that had to be was not.
func (l liveEvents) settled() *float64 {
	if l.Lost == nil || *l.Lost != 0 {
		return nil
	}
	return l.EventsPerSecond
}

// reconcile runs the load script of the write buffer, and then kills a worker in the middle of its job.
func (d *deployment) reconcile(ctx context.Context) (reconciling, error) {
	d.say("reconciling: live events, then the same payments by each strategy, N+1 row by row. Three minutes")
	before, err := d.flushedLive(ctx)
	if err != nil {
		return reconciling{}, err
	}
	results := filepath.Join(d.dir, "reconcile.json")
	script := d.loadScript("k6 reconcile", "reconcile.js", results)
	// Here the naive way is measured to its end, and not scaled.
	script.env = append(script.env, "SLOW_PAYMENTS=0", "COMPARE_SECONDS=900")
	found, err := load[reconcileResults](ctx, d, script, results)
	if err != nil {
		return reconciling{}, err
	}
	r := reconciling{reconcileResults: found}
	if r.liveDBTrips, err = d.liveDBTrips(ctx, before, found); err != nil {
		return reconciling{}, err
	}
	if r.commitLatency, err = d.commitLatency(ctx); err != nil {
		return reconciling{}, err
	}
	r.handover, err = d.killTheWorker(ctx)
	return r, err
}

// flushed is what draining the live events has cost so far.
type flushed struct{ payments, dbTrips float64 }

func (d *deployment) flushedLive(ctx context.Context) (flushed, error) {
	payments, err := d.counted(ctx, `buffer_flush_items_sum{buffer="live",outcome="committed"}`)
	if err != nil {
		return flushed{}, err
	}
	trips, err := d.counted(ctx, `store_round_trips_total{store="postgres",operation="flush live"}`)
	return flushed{payments, trips}, err
}

// liveDBTrips returns how many round-trips to Postgres a second of live events cost: those of the flushers, which only
// the replicas know, and those of requests that Redis did not answer in time.
func (d *deployment) liveDBTrips(ctx context.Context, before flushed, found reconcileResults) (*float64, error) {
	all := found.Strategies["buffered"].Payments
	if all == 0 || found.Live.Requests == 0 {
		return nil, nil //nolint:nilnil // nothing was measured, and nothing is wrong
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second) // a few exports
	defer cancel()
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for {
		now, err := d.flushedLive(ctx)
		// Each payment that was named is flushed once at least; until then the replicas have more to report.
		if err == nil && now.payments-before.payments >= min(found.Live.Requests, all)-found.Live.Direct {
			return new((now.dbTrips - before.dbTrips + found.Live.DBRoundTrips) / found.Live.Seconds), nil
		}
		select {
		case <-ctx.Done():
			return nil, nil //nolint:nilnil // the claim says that nothing was measured
		case <-again.C:
		}
	}
}
