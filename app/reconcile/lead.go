package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nervous/app/roundtrips"
)

// failuresAllowed is how often in succession a run may fail, or lose its lead by a crash, without progress. A lead that
// leaves in order, as in a rollout, is no failure.
const failuresAllowed = 5

// takeSQL makes a worker the lead of a run that has none. The lead before has crashed unless it has left in order; with
// progress since the last failure, that is the first one in succession.
const takeSQL = `-- name: reconcile_take
UPDATE reconcile_jobs j
SET worker = $2, replica = $3, silent_after = now() + $4, taken_at = now(), attempts = attempts + 1,
    traceparent = CASE WHEN attempts = 0 THEN $5 ELSE traceparent END,
    failures = CASE WHEN released THEN failures WHEN made.progress > j.progress THEN 1 ELSE failures + 1 END,
    progress = CASE WHEN released THEN j.progress ELSE made.progress END,
    released = false
FROM (` + progressSQL + `) made
WHERE id = $1 AND state IN ('running', 'cancelling') AND silent_after <= now()
RETURNING ` + columns

// progressSQL grows with each range that is cut, each page that is counted, and each range that is done.
const progressSQL = `SELECT count(*) + count(*) FILTER (WHERE done) + coalesce(sum(examined), 0) AS progress
    FROM reconcile_ranges WHERE run = $1`

// lead takes a run that has no lead and works on it to its end; false when another process was faster.
func (r *Reconciler) lead(ctx context.Context, id uuid.UUID, own *roundtrips.Tally) (taken bool, err error) {
	looking := ctx // its statement has no parent, because the span is exported only when the run was taken
	ctx, span := r.tel.startJob(ctx)
	w := &worker{Reconciler: r, id: uuid.New(), leads: true, own: own, begun: time.Now(), span: span}
	err = r.db.within(w.bookkeeping(looking), recordTimeout, func(ctx context.Context) (err error) {
		w.job, err = scanJob(r.db.QueryRow(ctx, takeSQL, id, w.id, r.options.Replica, r.options.Silence,
			traceparent(span.SpanContext())))
		return err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil // the span was for nothing, and is never exported
	case err != nil:
		return false, fmt.Errorf("take run %s: %w", id, err)
	}
	defer span.End()
	r.tel.took(ctx, w.job, span)
	err = w.register(w.bookkeeping(ctx))
	if err == nil {
		err = w.work(ctx, w.attempt)
	} else {
		w.tally = roundtrips.New("job reconcile")
	}
	w.end(ctx, err)
	return true, nil
}

func (w *worker) attempt(ctx context.Context) error {
	switch {
	case w.job.State == Cancelling:
		return errCancelled
	case w.job.Failures >= failuresAllowed:
		return errGaveUp
	}
	own := w.bookkeeping(ctx)
	if err := w.examineChanges(own); err != nil {
		return err
	}
	for more := true; more; {
		var err error
		if more, err = w.db.cut(own, w.job.ID); err != nil {
			return err
		}
	}
	var err error
	if w.job.Total, err = w.total(own); err != nil {
		return err
	}
	for {
		if err := w.workOnRanges(ctx); err != nil {
			return err
		}
		left, err := w.db.unfinished(own, w.job.ID)
		if err != nil || left == 0 {
			return err
		}
		select { // others have the rest
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(jittered(200 * time.Millisecond)):
		}
	}
}

// errGaveUp ends a run whose leads have died before they could say why.
var errGaveUp = errors.New("gave up")

func (w *worker) total(ctx context.Context) (total int64, err error) {
	const read = `-- name: reconcile_total
SELECT total FROM reconcile_jobs WHERE id = $1`
	err = w.db.within(ctx, recordTimeout, func(ctx context.Context) error {
		return w.db.QueryRow(ctx, read, w.job.ID).Scan(&total)
	})
	if err != nil {
		return 0, fmt.Errorf("count the payments of run %s: %w", w.job.ID, err)
	}
	return total, nil
}

// end records how the run ended, or that it is free for another worker where it can go on.
func (w *worker) end(ctx context.Context, err error) {
	state := Done
	switch {
	case errors.Is(err, errReplaced), errors.Is(err, errSilent):
		w.span.RecordError(err)
		return
	case errors.Is(err, errCancelled):
		state = Cancelled
	case errors.Is(err, errGaveUp):
		state = Failed
		err = fmt.Errorf("gave up after %d attempts: %s", w.job.Failures, w.job.Err)
	case err != nil:
		state = Running // it goes on elsewhere, unless it has failed too often
	}
	failed := state == Running && ctx.Err() == nil
	message := ""
	if err != nil && state != Cancelled {
		message = err.Error()
	}
	bounded, cancel := context.WithTimeout(w.bookkeeping(context.WithoutCancel(ctx)), endTimeout)
	defer cancel()
	defer context.AfterFunc(w.life, cancel)()
	ended, e := w.write(bounded, state, message, failed)
	if e != nil {
		slog.WarnContext(ctx, "the end of a run could not be recorded; another worker will find it",
			"run", w.job.ID, "error", e)
		w.span.RecordError(errors.Join(err, e))
		return
	}
	if message != "" {
		slog.WarnContext(ctx, "an attempt at a run failed",
			"run", w.job.ID, "attempt", w.job.Attempts, "ends_as", ended.State, "error", err)
	}
	w.tel.ended(ctx, w.span, ended, err)
}

// lockSQL waits for the transactions that are marking for the run; none can begin to commit after it.
const lockSQL = `-- name: reconcile_lock
SELECT FROM reconcile_jobs WHERE id = $1 FOR UPDATE`

// endSQL ends a run, or the lead's part in it. The counts are the sums of the ranges; of a page that was not counted
// yet, what is marked is counted now. What failed now would fail again at once, so the next lead begins after a second.
const endSQL = `-- name: reconcile_end
WITH worker AS (
    UPDATE reconcile_workers
    SET silent_after = now(), range = 0, examined = 0, degraded = $6, seconds = $7, db_trips = $8, redis_trips = $9,
        own_trips = $10
    WHERE id = $2
    RETURNING *
), costs AS (
    SELECT sum(degraded) AS degraded, sum(seconds) AS seconds, sum(db_trips) AS db_trips,
        sum(redis_trips) AS redis_trips, sum(own_trips) AS own_trips
    FROM (SELECT * FROM worker UNION ALL SELECT * FROM reconcile_workers WHERE run = $1 AND id <> $2) w
), counts AS (
    SELECT sum(examined) AS examined, sum(reconciled + coalesce(marked, page_reconciled)) AS reconciled,
        sum(amount) AS amount, sum(currency) AS currency, sum(missing) AS missing, sum(late) AS late
    FROM reconcile_ranges r
    LEFT JOIN LATERAL (
        SELECT count(*) AS marked FROM payments
        WHERE id > r.page_after AND id <= r.page_last AND reconciled_by = $1
    ) page ON NOT r.done AND r.page_last > r.page_after
    WHERE run = $1
), verdict AS (
    SELECT j.id, CASE WHEN $3 = 'running' AND $5 AND f.failures >= $11 THEN 'failed'
            WHEN $3 = 'running' THEN j.state ELSE $3 END AS state,
        f.failures, made.progress
    FROM reconcile_jobs j
    CROSS JOIN (` + progressSQL + `) made
    CROSS JOIN LATERAL (
        SELECT CASE WHEN NOT $5 THEN j.failures
            WHEN made.progress > j.progress THEN 1 ELSE j.failures + 1 END AS failures
    ) f
    WHERE j.id = $1
)
UPDATE reconcile_jobs j
SET state = v.state, error = $4, released = true, failures = v.failures,
    progress = CASE WHEN $5 THEN v.progress ELSE j.progress END,
    silent_after = now() + CASE WHEN $5 THEN interval '1 second' ELSE interval '0' END,
    finished_at = CASE WHEN v.state IN ('done', 'failed', 'cancelled') THEN now() END,
    examined = CASE WHEN v.state = 'done' THEN total ELSE coalesce(n.examined, 0) END,
    reconciled = coalesce(n.reconciled, 0), amount = coalesce(n.amount, 0), currency = coalesce(n.currency, 0),
    missing = coalesce(n.missing, 0), late = coalesce(n.late, 0),
    degraded = c.degraded, seconds = c.seconds, db_trips = c.db_trips, redis_trips = c.redis_trips,
    own_trips = c.own_trips
FROM verdict v, counts n, costs c
WHERE j.id = v.id AND j.worker = $2 AND j.state IN ('running', 'cancelling')
RETURNING ` + columns

// write is one short write: what it reads are the run's ranges and workers. errReplaced when another worker leads.
func (w *worker) write(ctx context.Context, state State, message string, failed bool) (ended Job, err error) {
	r := w.report()
	b := &pgx.Batch{}
	b.Queue(lockSQL, w.job.ID)
	b.Queue(endSQL, w.job.ID, w.id, state, message, failed, r.degraded, r.seconds, r.dbTrips, r.redisTrips, r.ownTrips,
		failuresAllowed).QueryRow(func(row pgx.Row) (err error) {
		ended, err = scanJob(row)
		return err
	})
	err = w.db.within(ctx, endTimeout, func(ctx context.Context) error { return w.db.SendBatch(ctx, b).Close() })
	if errors.Is(err, pgx.ErrNoRows) {
		return Job{}, errReplaced
	}
	return ended, err
}
