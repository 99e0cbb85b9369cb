package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/trace"
)

// State is where a run is.
type State string

// The states of a run; the last three are the end.
const (
	Running    State = "running"
	Cancelling State = "cancelling"
	Done       State = "done"
	Failed     State = "failed"
	Cancelled  State = "cancelled"
)

// Over says that nothing will change any more.
func (s State) Over() bool { return s == Done || s == Failed || s == Cancelled }

// Job is what Postgres knows of a run. While it goes on, its worker brings that up to date once a second.
type Job struct {
	ID       uuid.UUID
	Strategy Strategy
	State    State
	// Total is how many payments were pending when it began; where they are more than one range has, it grows while the
	// ranges are cut. Examined is how many of them have been looked at.
	Total, Examined int64
	Counts          Counts
	// Reopened were reconciled before, and did not agree any more because their settlement was changed.
	Reopened int64
	// Degraded are the payments that were marked directly, because Redis refused them.
	Degraded int64
	// Took is the time that its leads have spent so far.
	Took time.Duration
	// DBTrips and RedisTrips are what the work cost, OwnTrips what it cost to keep this record.
	DBTrips, RedisTrips, OwnTrips int64
	// Attempts is how many workers have led it. Failures is how many of them in succession have crashed or failed
	// without progress; a worker that leaves in order does not count.
	Attempts, Failures int
	// Replica is where the last lead ran.
	Replica string
	// TraceID is the first lead's trace; the others link to it. Empty until there is one.
	TraceID string
	// Err is why the last attempt failed, if it did.
	Err                   string
	CreatedAt, FinishedAt time.Time

	cause, trace trace.SpanContext
}

// Progress is how much of the run has been looked at, from 0 to 1.
func (j Job) Progress() float64 { return progressOf(j.Examined, j.Total) }

// Rate is how many payments a second have been looked at on average.
func (j Job) Rate() float64 {
	if j.Took <= 0 {
		return 0
	}
	return float64(j.Examined) / j.Took.Seconds()
}

// ETA is how much longer the run takes if it goes on as it has; not known before it has begun and after it has ended.
func (j Job) ETA() (left time.Duration, known bool) {
	if j.State.Over() || j.Rate() == 0 {
		return 0, false
	}
	return time.Duration(float64(j.Total-j.Examined) / j.Rate() * float64(time.Second)), true
}

// ErrNotFound answers an id that is no run's.
var ErrNotFound = errors.New("there is no such run")

// RunningError answers who would start a run while another one goes on: they would do each other's work.
type RunningError struct{ ID uuid.UUID }

func (e RunningError) Error() string { return fmt.Sprintf("run %s goes on", e.ID) }

// Start asks for a run over the first payments that are pending, all of them if limit is 0. It does not wait for it:
// the run belongs to whichever replica takes it first, most likely this one. RunningError while another one goes on.
func (r *Reconciler) Start(ctx context.Context, by Strategy, limit int) (Job, error) {
	const insert = `-- name: reconcile_start
INSERT INTO reconcile_jobs (id, strategy, cause, through, total, most)
SELECT $1, $2, $3, coalesce((SELECT max(id) FROM payments WHERE status = 'pending'), 0), 0, $4`
	id := uuid.New()
	var most *int // no limit
	if limit > 0 {
		most = &limit
	}
	err := r.db.within(ctx, recordTimeout, func(ctx context.Context) error {
		_, err := r.db.Exec(ctx, insert, id, by, traceparent(trace.SpanContextFromContext(ctx)), most)
		return err
	})
	if taken, ok := errors.AsType[*pgconn.PgError](err); ok && taken.ConstraintName == "reconcile_jobs_one_at_a_time" {
		running, err := r.running(ctx)
		switch {
		case err != nil:
			return Job{}, err
		case running == uuid.Nil: // it has ended since
			return r.Start(ctx, by, limit)
		}
		return Job{}, RunningError{running}
	}
	if err != nil {
		return Job{}, fmt.Errorf("start a run: %w", err)
	}
	// So that Total is known where one range is all. A worker cuts what is not cut now.
	if _, err := r.db.cut(ctx, id); err != nil {
		slog.WarnContext(ctx, "a run was started and not cut into ranges yet", "run", id, "error", err)
	}
	select {
	case r.asked <- struct{}{}:
	default: // it looks already
	}
	return r.Job(ctx, id)
}

// running returns the run that goes on, or the zero id.
func (r *Reconciler) running(ctx context.Context) (id uuid.UUID, err error) {
	const running = `-- name: reconcile_running
SELECT id FROM reconcile_jobs WHERE state IN ('running', 'cancelling')`
	err = r.db.within(ctx, recordTimeout, func(ctx context.Context) error {
		return r.db.QueryRow(ctx, running).Scan(&id)
	})
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, fmt.Errorf("look for a run: %w", err)
	}
	return id, nil
}

// columns is a run as it was written down last.
const columns = `j.id, j.strategy, j.state, j.total, j.examined, j.reconciled, j.amount, j.currency, j.missing, j.late,
	j.degraded, j.seconds, j.db_trips, j.redis_trips, j.own_trips,` + fixedColumns

const fixedColumns = ` j.reopened, j.attempts, j.failures, j.replica, j.error, j.created_at, j.finished_at,
	j.cause, j.traceparent`

// jobSQL is a run as it is now: while it goes on, the sums of its ranges and of its workers.
const jobSQL = `-- name: reconcile_job
SELECT j.id, j.strategy, j.state, j.total, least(j.total, coalesce(r.examined, j.examined)),
	coalesce(r.reconciled, j.reconciled), coalesce(r.amount, j.amount), coalesce(r.currency, j.currency),
	coalesce(r.missing, j.missing), coalesce(r.late, j.late), coalesce(w.degraded, j.degraded),
	coalesce(w.seconds, j.seconds), coalesce(w.db_trips, j.db_trips), coalesce(w.redis_trips, j.redis_trips),
	coalesce(w.own_trips, j.own_trips),` + fixedColumns + `
FROM reconcile_jobs j
LEFT JOIN LATERAL (
	SELECT sum(CASE WHEN r.done OR w.range IS DISTINCT FROM r.n THEN r.examined
			ELSE greatest(r.examined, w.examined) END) AS examined,
		sum(r.reconciled + r.page_reconciled) AS reconciled, sum(r.amount) AS amount, sum(r.currency) AS currency,
		sum(r.missing) AS missing, sum(r.late) AS late
	FROM reconcile_ranges r LEFT JOIN reconcile_workers w ON w.id = r.owner
	WHERE r.run = j.id
) r ON j.state IN ('running', 'cancelling')
LEFT JOIN LATERAL (
	SELECT sum(degraded) AS degraded, sum(seconds) AS seconds, sum(db_trips) AS db_trips,
		sum(redis_trips) AS redis_trips, sum(own_trips) AS own_trips
	FROM reconcile_workers WHERE run = j.id
) w ON j.state IN ('running', 'cancelling')
WHERE j.id = $1`

func scanJob(row pgx.Row) (Job, error) {
	var j Job
	var seconds float64
	var finished *time.Time
	var cause, traceparent string
	err := row.Scan(&j.ID, &j.Strategy, &j.State, &j.Total, &j.Examined, &j.Counts.Reconciled, &j.Counts.Amount,
		&j.Counts.Currency, &j.Counts.Missing, &j.Counts.Late, &j.Degraded, &seconds, &j.DBTrips, &j.RedisTrips, &j.OwnTrips,
		&j.Reopened, &j.Attempts, &j.Failures, &j.Replica, &j.Err, &j.CreatedAt, &finished, &cause, &traceparent)
	if err != nil {
		return Job{}, err
	}
	j.Took = time.Duration(seconds * float64(time.Second))
	if finished != nil {
		j.FinishedAt = *finished
	}
	j.cause, j.trace = spanOf(cause), spanOf(traceparent)
	if j.trace.IsValid() {
		j.TraceID = j.trace.TraceID().String()
	}
	return j, nil
}

// Job returns what is known of a run: ErrNotFound.
func (r *Reconciler) Job(ctx context.Context, id uuid.UUID) (Job, error) {
	var j Job
	err := r.db.within(ctx, recordTimeout, func(ctx context.Context) (err error) {
		j, err = scanJob(r.db.QueryRow(ctx, jobSQL, id))
		return err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Job{}, ErrNotFound
	case err != nil:
		return Job{}, fmt.Errorf("run %s: %w", id, err)
	}
	return j, nil
}

// Cancel asks a run to end where it is; what has been marked by then stays marked. It returns the run, which is over
// already or will be within a second: ErrNotFound.
func (r *Reconciler) Cancel(ctx context.Context, id uuid.UUID) (Job, error) {
	const cancel = `-- name: reconcile_cancel
UPDATE reconcile_jobs SET state = 'cancelling' WHERE id = $1 AND state = 'running'`
	err := r.db.within(ctx, recordTimeout, func(ctx context.Context) error {
		_, err := r.db.Exec(ctx, cancel, id)
		return err
	})
	if err != nil {
		return Job{}, fmt.Errorf("cancel run %s: %w", id, err)
	}
	return r.Job(ctx, id)
}
