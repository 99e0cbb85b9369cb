package main

// reconcileClaims are the write buffer's rows of the table.
func reconcileClaims(r reconciling) []claim {
	nPlusOne, buffered := r.Strategies["n_plus_one"], r.Strategies["buffered"]
	return []claim{{
		id:   "reconcile.n_plus_one.db_round_trips",
		says: "N+1 finds every payment and updates every one that agrees: one each",
		unit: "round-trips", measure: found(nPlusOne.onAll(nPlusOne.DBRoundTrips)),
		holds: func(trips float64) bool { return trips >= nPlusOne.rows() },
	}, {
		id:   "reconcile.buffered.db_round_trips",
		says: "the buffer asks Postgres at most 60 times for the same 50,000",
		unit: "round-trips", measure: found(buffered.DBRoundTrips), holds: atMost(60),
	}, {
		id:   "reconcile.buffered.redis_round_trips",
		says: "and Redis at most 80 times",
		unit: "round-trips", measure: found(buffered.RedisRoundTrips), holds: atMost(80),
	}, {
		id:   "reconcile.buffered.redis_bytes_per_payment",
		says: "what a payment that waits in the buffer takes of Redis (reported)",
		unit: "bytes", measure: found(r.handover.bytes()),
	}, {
		id:   "reconcile.buffered.speedup_over_n_plus_one",
		says: "the buffer is at least 10 times as fast as N+1, both run to the end",
		unit: "times", measure: found(nPlusOne.onAll(r.SpeedupOverNPlusOne)), holds: atLeast(10),
	}, {
		id:   "reconcile.commit_latency_ms",
		says: "what a commit waits for on that disk, row by row in N+1 (reported)",
		unit: "ms", measure: found(r.commitLatency),
	}, {
		id:   "reconcile.buffered.ratio_to_single_statement",
		says: "and takes at most 3 times as long as one statement without Redis",
		unit: "times", measure: found(r.RatioToSingleStatement), holds: atMost(3),
	}, {
		id:   "reconcile.lost",
		says: "kill -9 of the worker in mid-run, another finishes: payments lost, 0",
		unit: "payments", measure: r.handover.count(func(h *handover) int64 { return h.lost }),
		holds: func(lost float64) bool { return lost == 0 && r.handover.happened() },
	}, {
		id:   "reconcile.wrongly_marked",
		says: "and payments marked that do not agree: 0",
		unit: "payments", measure: r.handover.count(func(h *handover) int64 { return h.wronglyMarked }),
		holds: func(marked float64) bool { return marked == 0 && r.handover.happened() },
	}, {
		id:   "reconcile.live.events_per_second",
		says: "live events, one a request, all marked in the end: a second (reported)",
		unit: "events/s", measure: found(r.Live.settled()),
	}, {
		id:   "reconcile.live.db_round_trips_per_second",
		says: "and what they cost Postgres: a second (reported)",
		unit: "round-trips/s", measure: found(r.liveDBTrips),
	}}
}

func found(figure *float64) func(measurements) *float64 {
	return func(measurements) *float64 { return figure }
}

// rows is how many a job reads and writes that looks at each payment and marks each that agrees.
func (c compared) rows() float64 { return c.Payments + c.Reconciled }

// onAll returns a figure only if it was measured on all payments.
func (c compared) onAll(figure *float64) *float64 {
	if c.Scaled != nil {
		return nil
	}
	return figure
}

func (h *handover) bytes() *float64 {
	if h == nil || h.bytesPerPayment == 0 {
		return nil
	}
	return &h.bytesPerPayment
}

func (h *handover) count(which func(*handover) int64) func(measurements) *float64 {
	if h == nil {
		return found(nil)
	}
	return found(new(float64(which(h))))
}
