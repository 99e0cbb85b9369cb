package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"
)

// claim is one sentence that the deployment must live up to, and how it is judged. The ids are public: the README's
// table and later comparisons are made from them.
type claim struct {
	id      string
	says    string
	unit    string
	measure func(measurements) *float64 // nil when the run has no sample of it
	holds   func(float64) bool          // nil for what is only reported
}

// measurements is what a run finds out: by this program, and by the load scripts, phase by phase.
type measurements struct {
	ready    time.Duration
	phases   map[string]phase
	takeover *takeover // nil where nobody could be killed in time

	waiterDelayP99, waiterDelayP99Of1000 *float64 // in milliseconds

	reconciling reconciling
	limiting    limiting
	audited     audited
	shown       *shown // nil where nobody has looked at the dashboards

	thresholdsPassed bool // those of every load script
}

// phase is one phase of loadtest/trending.js as its summary reports it, as far as a claim needs it. What has no sample
// is nil.
type phase struct {
	Requests           *float64 `json:"requests"`
	Hits               *float64 `json:"hits"`
	Waits              *float64 `json:"waits"`
	Renewals           *float64 `json:"renewals"`
	Failed             *float64 `json:"failed"`
	P50                *float64 `json:"p50_ms"`
	HitP50             *float64 `json:"hit_p50_ms"`
	HitP95             *float64 `json:"hit_p95_ms"`
	Fills              *float64 `json:"fills"`
	DBRoundTrips       *float64 `json:"db_round_trips_median"`
	DBRoundTripsOfHits *float64 `json:"db_round_trips_median_hit"`
}

// claims is the table. A later pattern adds its rows; one that a run cannot measure yet is left out, not guessed.
func claims(m measurements) []claim {
	return append(slices.Concat(
		trendingClaims(m), reconcileClaims(m.reconciling), ratelimitClaims(m.limiting), auditClaims(m.audited),
	), claim{
		id:   "dashboards.queries_without_data",
		says: "every query of every dashboard finds what this run has done: 0 do not",
		unit: "queries", measure: func(m measurements) *float64 { return m.shown.empty() }, holds: equals(0),
	}, claim{
		id:   "deploy.ready_seconds",
		says: "data loaded and three replicas ready behind the door in under 60 s",
		unit: "s", measure: func(m measurements) *float64 { return new(m.ready.Seconds()) }, holds: below(60),
	})
}

func trendingClaims(m measurements) []claim {
	return []claim{{
		id:   "trending.cold_query_ms",
		says: "one uncached answer is slow: a second or two on two cores (reported)",
		unit: "ms", measure: of("alone", func(p phase) *float64 { return p.P50 }),
	}, {
		id:   "trending.n_plus_one.db_round_trips_per_request",
		says: "N+1 asks Postgres for the list, then once a post: 11",
		unit: "round-trips", measure: of("n_plus_one", func(p phase) *float64 { return p.DBRoundTrips }), holds: equals(11),
	}, {
		id:   "trending.preload.db_round_trips_per_request",
		says: "preloading, memory inside one request, asks twice: 2",
		unit: "round-trips", measure: of("preload", func(p phase) *float64 { return p.DBRoundTrips }), holds: equals(2),
	}, {
		id:   "trending.lease.db_round_trips_per_hit",
		says: "shared memory answers without Postgres: 0",
		unit: "round-trips", measure: of("spike", func(p phase) *float64 { return p.DBRoundTripsOfHits }), holds: equals(0),
	}, {
		id:   "trending.ttl.fills",
		says: "an unprotected cache stampedes: 20 cold requests, about 20 queries",
		unit: "fills", measure: of("ttl", func(p phase) *float64 { return p.Fills }), holds: atLeast(10),
	}, {
		id:   "trending.lease.fills",
		says: "the lease lets one of 1,000 cold requests on 3 replicas query: 1",
		unit: "fills", measure: of("lease_1000", func(p phase) *float64 { return p.Fills }), holds: equals(1),
	}, {
		id:   "trending.lease.hit_p95_ms",
		says: "hits stay fast in the spike, 300 a second: p95 below 200 ms",
		unit: "ms", measure: of("spike", func(p phase) *float64 { return p.HitP95 }), holds: below(200),
	}, {
		id:   "trending.lease.hit_limiter_off_ms",
		says: "a hit at leisure, without the rate limiter: median (reported)",
		unit: "ms", measure: of("limiter_off", func(p phase) *float64 { return p.HitP50 }),
	}, {
		id:   "trending.lease.hit_limiter_on_ms",
		says: "and with it, which is one more round-trip to Redis (reported)",
		unit: "ms", measure: of("limiter_on", func(p phase) *float64 { return p.HitP50 }),
	}, {
		id:   "trending.lease.hit_limiter_ratio",
		says: "which is so many times as long (reported)",
		unit: "times", measure: withLimiter(func(p phase) *float64 { return p.HitP50 }),
	}, {
		id:   "trending.lease.hit_limiter_p95_ratio",
		says: "and by their p95 (reported)",
		unit: "times", measure: withLimiter(func(p phase) *float64 { return p.HitP95 }),
	}, {
		id:   "trending.lease.waiter_delay_p99_ms",
		says: "20 who wait have the answer within 50 ms of its commit: p99",
		unit: "ms", measure: func(m measurements) *float64 { return m.waiterDelayP99 }, holds: below(50),
	}, {
		// The same for a thousand at once: what is added is the cores' time for a thousand answers, not the lease's.
		id:   "trending.lease.waiter_delay_p99_of_1000_ms",
		says: "of 1,000 who wait, each a turn on the same cores: p99 (reported)",
		unit: "ms", measure: func(m measurements) *float64 { return m.waiterDelayP99Of1000 },
	}, {
		id:   "trending.lease.waited_during_refresh",
		says: "nobody waits while a hot answer is computed anew: 0",
		unit: "requests", measure: of("refresh", waitedDuringRefresh), holds: equals(0),
	}, {
		id:   "trending.lease.takeover_ms",
		says: "kill -9 of who queries: another takes over within lease + 1 query",
		unit: "ms", measure: func(m measurements) *float64 { return m.takeover.milliseconds() },
		holds: func(float64) bool { return m.takeover.inTime() },
	}}
}

func of(name string, figure func(phase) *float64) func(measurements) *float64 {
	return func(m measurements) *float64 { return figure(m.phases[name]) }
}

// withLimiter relates a figure of hits with the rate limiter to the same without.
func withLimiter(figure func(phase) *float64) func(measurements) *float64 {
	return func(m measurements) *float64 {
		on, off := figure(m.phases["limiter_on"]), figure(m.phases["limiter_off"])
		if on == nil || off == nil {
			return nil
		}
		return new(*on / *off)
	}
}

// waitedDuringRefresh counts everybody who got anything but a fresh hit: whoever waited, computed, failed, or was
// served something stale after a moment's hope for something fresh. Without two refreshes there was nothing to wait
// for.
func waitedDuringRefresh(p phase) *float64 {
	if p.Requests == nil || p.Hits == nil || p.Renewals == nil || *p.Renewals < 2 {
		return nil
	}
	return new(*p.Requests - *p.Hits)
}

func equals(want float64) func(float64) bool  { return func(got float64) bool { return got == want } }
func atLeast(want float64) func(float64) bool { return func(got float64) bool { return got >= want } }
func atMost(limit float64) func(float64) bool { return func(got float64) bool { return got <= limit } }
func below(limit float64) func(float64) bool  { return func(got float64) bool { return got < limit } }

// verdict is a claim that was judged, as it stands in the JSON file.
type verdict struct {
	ID       string   `json:"id"`
	Says     string   `json:"says"`
	Measured *float64 `json:"measured"`
	Unit     string   `json:"unit"`
	Holds    bool     `json:"holds"`

	reported bool
}

// judge holds each claim against what was measured. A claim without a measurement does not hold.
func judge(m measurements) []verdict {
	var verdicts []verdict
	for _, c := range claims(m) {
		v := verdict{ID: c.id, Says: c.says, Unit: c.unit, Measured: c.measure(m), reported: c.holds == nil}
		v.Holds = v.Measured != nil && (c.holds == nil || c.holds(*v.Measured))
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// loadResults is the file that loadtest/trending.js leaves (RESULTS).
type loadResults struct {
	Phases           map[string]phase `json:"phases"`
	ThresholdsPassed bool             `json:"thresholds_passed"`
}

// and adds the phases of another run.
func (r loadResults) and(other loadResults) loadResults {
	maps.Copy(r.Phases, other.Phases)
	r.ThresholdsPassed = r.ThresholdsPassed && other.ThresholdsPassed
	return r
}

func readResults[results any](path string) (found results, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return found, fmt.Errorf("the load script left no results: %w", err)
	}
	if err := json.Unmarshal(text, &found); err != nil {
		return found, fmt.Errorf("the load script's results: %w", err)
	}
	return found, nil
}
