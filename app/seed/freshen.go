package seed

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// freshFor is how old the newest row may be before a run moves the clock: of two starts in a row the second has nothing
// to do.
const freshFor = time.Minute

// clocks are the columns that move. Payments do not: what was booked keeps its date.
var clocks = []struct{ table, column string }{
	{"posts", "created_at"}, {"views", "occurred_at"}, {"comments", "occurred_at"}, {"shares", "occurred_at"},
}

// freshen moves posts and events, all by the same time and in one transaction, so that the newest is now. Rewriting a
// table (that is what a new column type with USING does) costs a third of updating its rows, and leaves no dead ones.
// Readers wait meanwhile: some seconds for the full scale. Rows that the service has written since stop at now instead
// of moving into the future.
func (r *run) freshen(ctx context.Context) error {
	var now time.Time
	if err := r.conn.QueryRow(ctx, "SELECT now()").Scan(&now); err != nil {
		return err
	}
	behind := now.Sub(r.record.Newest)
	if behind < freshFor {
		return nil
	}
	r.report(fmt.Sprintf("moving the clock on by %s", behind.Round(time.Second)))
	return r.alone(ctx, func(tx pgx.Tx) error {
		for _, clock := range clocks {
			// DDL takes no parameters; the only thing put in is a number of ours.
			_, err := tx.Exec(ctx, fmt.Sprintf(`ALTER TABLE %s ALTER COLUMN %s TYPE timestamptz
				USING least(%[2]s + %d * interval '1 microsecond', now())`, clock.table, clock.column, behind.Microseconds()))
			if err != nil {
				return err
			}
		}
		return r.note(ctx, tx, func(record *record) { record.Newest, record.Settled = now, false })
	})
}

// settle leaves the tables as a service that has run for a while has them: statistics for the planner, hint bits and
// visibility map for the readers. Otherwise autovacuum would do it some minutes later, under whatever is measured then.
func (r *run) settle(ctx context.Context) error {
	if r.record.Settled {
		return nil
	}
	r.report("vacuuming and analyzing")
	// The rows brought their ids; those that the service adds go on after them.
	for _, table := range []string{"users", "posts", "payments"} {
		const follow = "SELECT setval(pg_get_serial_sequence('%[1]s', 'id'), max(id)) FROM %[1]s"
		if _, err := r.conn.Exec(ctx, fmt.Sprintf(follow, table)); err != nil {
			return err
		}
	}
	if _, err := r.conn.Exec(ctx, "VACUUM (ANALYZE) "+tables); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, r.conn, func(tx pgx.Tx) error {
		return r.note(ctx, tx, func(record *record) { record.Settled = true })
	})
}
