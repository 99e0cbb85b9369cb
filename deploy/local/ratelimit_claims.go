package main

// ratelimitClaims are the rate limiter's rows of the table.
func ratelimitClaims(l limiting) []claim {
	return []claim{{
		id:   "ratelimit.fixed_window.worst_window",
		says: "counting by the clock's minute admits about 200 in 60 s, of a limit of 100",
		unit: "requests", measure: found(l.Phases["fixed_window"].WorstWindow),
		holds: func(admitted float64) bool { return admitted > limitPerWindow },
	}, {
		id:   "ratelimit.exact.worst_window",
		says: "the exact limit admits 100 in its worst 60 s, over 3 replicas",
		unit: "requests", measure: found(l.Phases["exact"].WorstWindow), holds: equals(limitPerWindow),
	}, {
		id:   "ratelimit.exact.redis_round_trips_per_check",
		says: "for one question to Redis a request: 1",
		unit: "round-trips", measure: found(l.Phases["crowd"].RedisTripsOfAdmitted), holds: equals(1),
	}, {
		id:   "ratelimit.exact.redis_round_trips_per_remembered_denial",
		says: "and none for who is known to have spent it: 0",
		unit: "round-trips", measure: found(l.Phases["abuser"].RedisTripsOfDenied), holds: equals(0),
	}, {
		id:   "ratelimit.citizens_p95_ratio",
		says: "p95 of those within their limit, beside an abuser and without (reported)",
		unit: "times", measure: found(l.CitizensP95Ratio),
	}}
}

// limitPerWindow is what one caller may ask in a minute (RATELIMIT_LIMIT), as loadtest/lib/slo.js says too.
const limitPerWindow = 100
