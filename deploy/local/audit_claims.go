package main

import (
	"fmt"

	"nervous/app/audit"
)

// auditClaims are the rows that say whether the others can be believed.
func auditClaims(a audited) []claim {
	var redis, postgres []audit.Row
	if a.report != nil {
		redis, postgres = a.report.Redis, a.report.Postgres
	}
	return []claim{{
		id:   "audit.redis_calls_traced",
		says: "every call is traced: of those that Redis counted, " + ofAll(redis),
		unit: "%", measure: traced(redis), holds: equals(100),
	}, {
		id:   "audit.db_calls_traced",
		says: "and of those that Postgres counted, " + ofAll(postgres),
		unit: "%", measure: traced(postgres), holds: equals(100),
	}, {
		id:   "audit.spans_dropped",
		says: fmt.Sprintf("and no span is lost, neither at the spike's rate (%d) nor in the audit: 0", a.atSpike.made),
		unit: "spans", measure: a.spansLost, holds: equals(0),
	}}
}

func ofAll(rows []audit.Row) string {
	calls, traced := audit.Calls(rows)
	return fmt.Sprintf("%d of %d", traced, calls)
}

// traced is the share of calls that have a span, in percent. One span too many breaks it as one too few does.
func traced(rows []audit.Row) func(measurements) *float64 {
	calls, traced := audit.Calls(rows)
	for _, row := range rows {
		if row.Untraced() < 0 {
			traced += row.Untraced()
		}
	}
	if calls == 0 {
		return found(nil)
	}
	return found(new(100 * float64(traced) / float64(calls)))
}

func (a audited) spansLost(measurements) *float64 {
	if a.report == nil || a.atSpike.made == 0 {
		return nil
	}
	return new(float64(a.atSpike.lost + a.report.SpansLost))
}
