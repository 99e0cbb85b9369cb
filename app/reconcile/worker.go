package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"nervous/app/roundtrips"
)

// attempts is how many workers may try a run before it has failed.
const attempts = 5

// Why a worker leaves its run before the end.
var (
	errCancelled = errors.New("the run was cancelled")
	errReplaced  = errors.New("another worker has taken the run over")
	errSilent    = errors.New("this worker has not reached Postgres for too long")
)

// takeJobs works on runs that have no living worker: new ones, and those whose worker has died.
func (r *Reconciler) takeJobs(ctx context.Context) {
	for {
		more, err := r.takeJob(ctx)
		if err != nil && ctx.Err() == nil {
			slog.WarnContext(ctx, "no run could be taken", "error", err)
		}
		if more {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-r.asked:
		case <-time.After(jittered(r.options.Silence / 2)):
		}
	}
}

// startJobs starts a run by itself from time to time.
func (r *Reconciler) startJobs(ctx context.Context) {
	if r.options.Every == 0 {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(jittered(r.options.Every)):
		}
		work := withTally(ctx, "job bookkeeping", r.options.ByItself)
		const recent = `-- name: reconcile_recent
SELECT EXISTS (SELECT FROM reconcile_jobs WHERE created_at > now() - $1::interval / 2)`
		var others bool
		err := r.pool.QueryRow(work, recent, r.options.Every).Scan(&others)
		if err == nil && !others {
			_, err = r.Start(work, r.options.ByItself, 0)
		}
		if _, busy := errors.AsType[RunningError](err); err != nil && !busy && ctx.Err() == nil {
			slog.WarnContext(ctx, "no run could be started", "error", err)
		}
	}
}

// takeJob takes one run, if there is one, and works on it to its end.
func (r *Reconciler) takeJob(ctx context.Context) (taken bool, err error) {
	own := withTally(ctx, "job bookkeeping", "")
	const look = `-- name: reconcile_look
SELECT id FROM reconcile_jobs WHERE state IN ('running', 'cancelling') AND silent_after <= now()`
	var id uuid.UUID
	err = r.pool.QueryRow(own, look).Scan(&id)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for runs: %w", err)
	}

	ctx, span := r.tel.startJob(ctx)
	w := &worker{Reconciler: r, name: uuid.New(), own: roundtrips.From(own), begun: time.Now(), span: span}
	const take = `-- name: reconcile_take
UPDATE reconcile_jobs
SET worker = $2, replica = $3, silent_after = now() + $4, attempts = attempts + 1,
	traceparent = CASE WHEN attempts = 0 THEN $5 ELSE traceparent END
WHERE id = $1 AND state IN ('running', 'cancelling') AND silent_after <= now()
RETURNING ` + columns
	w.job, err = scanJob(r.pool.QueryRow(own, take, id, w.name, r.options.Replica, r.options.Silence,
		traceparent(span.SpanContext())))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil // another was faster; the span was for nothing, and is never exported
	case err != nil:
		return false, fmt.Errorf("take run %s: %w", id, err)
	}
	w.work(ctx)
	return true, nil
}

// worker is one attempt at a run.
type worker struct {
	*Reconciler
	name  uuid.UUID
	job   Job // as it was taken
	span  trace.Span
	begun time.Time
	// own counts what the record costs, tally what the work does.
	own, tally *roundtrips.Tally
	// before is what earlier attempts have marked.
	before Counts

	mu       sync.Mutex
	progress Job // what this attempt adds
}

// work brings the run to an end, or lets go of it.
func (w *worker) work(ctx context.Context) {
	defer w.span.End()
	w.tel.took(ctx, w.job, w.span)
	w.tally = roundtrips.New("job reconcile")
	w.tally.SetStrategy(string(w.job.Strategy))
	working, stop := context.WithCancelCause(roundtrips.With(ctx, w.tally))
	defer stop(nil)
	defer context.AfterFunc(w.life, func() { stop(context.Canceled) })()

	alive := make(chan struct{})
	go func() {
		defer close(alive)
		w.keepAlive(working, stop)
	}()
	err := w.attempt(working)
	if cause := context.Cause(working); cause != nil {
		err = cause // whatever failed then, failed because of it
	}
	stop(nil)
	<-alive
	w.end(ctx, err)
}

func (w *worker) attempt(ctx context.Context) error {
	switch {
	case w.job.State == Cancelling:
		return errCancelled
	case w.job.Attempts > attempts:
		return fmt.Errorf("gave up after %d attempts: %s", attempts, w.job.Err)
	case w.job.Attempts > 1:
		done, err := w.marked(roundtrips.With(ctx, w.own))
		if err != nil {
			return err
		}
		w.before = Counts{Reconciled: done}
		w.note(func(j *Job) { j.Examined, j.Counts = done, w.before })
	}
	return w.byStrategy(ctx)
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
	case err != nil && w.job.Attempts >= attempts && ctx.Err() == nil:
		state = Failed
	case err != nil:
		state = Running // it goes on elsewhere
	}
	bounded, cancel := context.WithTimeout(roundtrips.With(context.WithoutCancel(ctx), w.own), w.options.Silence)
	defer cancel()
	defer context.AfterFunc(w.life, cancel)()
	if state == Cancelled || state == Failed {
		// What has not been flushed is still pending in Postgres, and so is for the next run to find.
		err = errors.Join(err, w.buffers.Open(w.job.ID.String()).Drop(bounded))
	}
	if state.Over() {
		if done, e := w.marked(bounded); e == nil {
			w.note(func(j *Job) { j.Counts.Reconciled = done })
		}
	}
	if state == Done { // what was not pending any more was marked by live events, or by a worker before this one
		w.note(func(j *Job) { j.Examined = w.job.Total })
	}
	message := ""
	if err != nil && !errors.Is(err, errCancelled) {
		message = err.Error()
		slog.WarnContext(ctx, "an attempt at a run failed",
			"run", w.job.ID, "attempt", w.job.Attempts, "ends_as", state, "error", err)
	}
	// What failed now would fail again at once, so the next worker begins after a moment. What this process has only
	// stopped, another can go on with at once.
	pause := time.Second
	if ctx.Err() != nil {
		pause = 0
	}
	if e := w.write(bounded, state, message, pause); e != nil {
		slog.WarnContext(ctx, "the end of a run could not be recorded; another worker will find it",
			"run", w.job.ID, "error", e)
		w.span.RecordError(errors.Join(err, e))
		return
	}
	w.tel.ended(ctx, w.span, w.total(), state, err)
}

// keepAlive tells Postgres of this worker and of its progress, and stops the work when the run is not its any more, or
// not wanted.
func (w *worker) keepAlive(ctx context.Context, stop context.CancelCauseFunc) {
	beat := time.NewTicker(w.options.Silence / 4)
	defer beat.Stop()
	heard := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
		}
		bounded, cancel := context.WithTimeout(roundtrips.With(ctx, w.own), w.options.Silence/2)
		err := w.write(bounded, Running, "", w.options.Silence)
		cancel()
		switch {
		case err == nil:
			heard = time.Now()
		case errors.Is(err, errCancelled), errors.Is(err, errReplaced):
			stop(err)
			return
		case time.Since(heard) > w.options.Silence:
			stop(fmt.Errorf("%w: %w", errSilent, err))
			return
		}
	}
}

// write brings the record up to date. A run that was asked to end stays so until it has: errCancelled, errReplaced.
func (w *worker) write(ctx context.Context, state State, message string, silence time.Duration) error {
	const update = `-- name: reconcile_write
UPDATE reconcile_jobs
SET state = CASE WHEN $3 = 'running' THEN state ELSE $3 END, error = $4, silent_after = now() + $5,
	finished_at = CASE WHEN $3 IN ('done', 'failed', 'cancelled') THEN now() END,
	examined = $6, reconciled = $7, amount = $8, currency = $9, missing = $10, degraded = $11, seconds = $12,
	db_trips = $13, redis_trips = $14, own_trips = $15
WHERE id = $1 AND worker = $2 AND state IN ('running', 'cancelling')
RETURNING state`
	j := w.total()
	var now State
	// This round-trip is part of what it writes down.
	err := w.pool.QueryRow(ctx, update, w.job.ID, w.name, state, message, silence, j.Examined,
		j.Counts.Reconciled, j.Counts.Amount, j.Counts.Currency, j.Counts.Missing, j.Degraded, j.Took.Seconds(),
		j.DBTrips, j.RedisTrips, j.OwnTrips+1).Scan(&now)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errReplaced
	case err == nil && now == Cancelling && state == Running:
		return errCancelled
	}
	return err
}

// note changes what this attempt has to report.
func (w *worker) note(change func(*Job)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.progress)
	w.tel.progressed(w.job.Strategy, w.progress.Examined, w.job.Total)
}

// total is the run as it is now: costs are the sum of all attempts, findings are this one's, which sees again whatever
// is pending.
func (w *worker) total() Job {
	w.mu.Lock()
	defer w.mu.Unlock()
	j := w.job
	j.Examined, j.Counts = w.progress.Examined, w.progress.Counts
	j.Degraded += w.progress.Degraded
	j.Took += time.Since(w.begun)
	j.DBTrips += w.tally.Count(roundtrips.Postgres)
	j.RedisTrips += w.tally.Count(roundtrips.Redis)
	j.OwnTrips += w.own.Count(roundtrips.Postgres) + w.own.Count(roundtrips.Redis)
	return j
}

// marked counts the payments that this run has marked, whichever worker did.
func (w *worker) marked(ctx context.Context) (n int64, err error) {
	const marked = `-- name: reconcile_marked
SELECT count(*) FROM payments WHERE reconciled_by = $1`
	if err := w.pool.QueryRow(ctx, marked, w.job.ID).Scan(&n); err != nil {
		return 0, fmt.Errorf("count what run %s has marked: %w", w.job.ID, err)
	}
	return n, nil
}

// jittered spreads what several processes do at the same interval.
func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2))
}
