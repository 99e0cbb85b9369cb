package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"nervous/app/roundtrips"
)

// worker is this process's part in a run. One worker leads the run: it examines what has changed, cuts the ranges,
// works on them, and ends the run. The others only work on ranges.
type worker struct {
	*Reconciler
	id    uuid.UUID
	leads bool
	job   Job // as it was taken
	span  trace.Span
	begun time.Time
	// own counts what the record costs, tally what the work does.
	own, tally *roundtrips.Tally
	progress   progress
}

// Why a worker leaves its run before the end.
var (
	errCancelled = errors.New("the run was cancelled")
	errReplaced  = errors.New("another worker leads the run now, or it is over")
	errSilent    = errors.New("this worker has not reached Postgres for too long")
)

// takeJobs works on runs: new ones, those whose lead has died, and those with ranges that have no owner.
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

// takeJob takes part in one run, if there is one that needs it.
func (r *Reconciler) takeJob(ctx context.Context) (more bool, err error) {
	own := withTally(ctx, "job bookkeeping", "")
	// A lead that has begun just now has not claimed its first range yet.
	const look = `-- name: reconcile_look
SELECT id, silent_after <= now()
FROM reconcile_jobs j
WHERE state IN ('running', 'cancelling') AND (silent_after <= now()
    OR state = 'running' AND taken_at < now() - interval '1 second' AND EXISTS (
        SELECT FROM reconcile_ranges r WHERE r.run = j.id AND NOT r.done AND NOT EXISTS (
            SELECT FROM reconcile_workers w WHERE w.id = r.owner AND w.silent_after > now())))`
	var id uuid.UUID
	var leaderless bool
	err = r.db.within(own, recordTimeout, func(ctx context.Context) error {
		return r.db.QueryRow(ctx, look).Scan(&id, &leaderless)
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for runs: %w", err)
	case leaderless:
		return r.lead(ctx, id, roundtrips.From(own))
	}
	return false, r.help(ctx, id, roundtrips.From(own)) // the lead goes on; it is looked for again a moment later
}

// work does the work under a heartbeat, and returns why it has ended: nil when it is done.
func (w *worker) work(ctx context.Context, do func(context.Context) error) error {
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
	err := do(working)
	if cause := context.Cause(working); cause != nil {
		err = cause // whatever failed then, failed because of it
	}
	stop(nil)
	<-alive
	return err
}

// workOnRanges works on ranges until there is none that has no owner. A range that was lost to another worker is that
// worker's.
func (w *worker) workOnRanges(ctx context.Context) error {
	for {
		in, found, err := w.db.claim(w.bookkeeping(ctx), w.job.ID, w.id)
		if err != nil || !found {
			return err
		}
		if err := w.reconcile(ctx, in); err != nil && !errors.Is(err, errStale) {
			return err
		}
	}
}

// bookkeeping charges what is done to the record.
func (w *worker) bookkeeping(ctx context.Context) context.Context { return roundtrips.With(ctx, w.own) }

// help works on ranges of a run that another process leads.
func (r *Reconciler) help(ctx context.Context, id uuid.UUID, own *roundtrips.Tally) (err error) {
	ctx, span := r.tel.startHelp(ctx)
	defer span.End()
	w := &worker{Reconciler: r, id: uuid.New(), own: own, begun: time.Now(), span: span}
	if w.job, err = r.Job(w.bookkeeping(ctx), id); err != nil {
		return err
	}
	r.tel.helped(w.job, span)
	if err := w.register(w.bookkeeping(ctx)); err != nil {
		return err
	}
	err = w.work(ctx, w.workOnRanges)
	bounded, cancel := context.WithTimeout(w.bookkeeping(context.WithoutCancel(ctx)), endTimeout)
	defer cancel()
	defer context.AfterFunc(w.life, cancel)()
	// Its ranges are free from now on. If this fails, they are when it has been silent for long enough.
	e := w.beat(bounded, w.db, 0)
	if err = errors.Join(err, e); err != nil && ctx.Err() == nil {
		span.RecordError(err)
		if !errors.Is(err, errCancelled) && !errors.Is(err, errReplaced) {
			return fmt.Errorf("help with run %s: %w", id, err)
		}
	}
	return nil
}

// register notes that this process works on the run.
func (w *worker) register(ctx context.Context) error {
	const register = `-- name: reconcile_register
INSERT INTO reconcile_workers (id, run, silent_after) VALUES ($1, $2, now() + $3)`
	return w.db.within(ctx, recordTimeout, func(ctx context.Context) error {
		if _, err := w.db.Exec(ctx, register, w.id, w.job.ID, w.options.Silence); err != nil {
			return fmt.Errorf("register a worker of run %s: %w", w.job.ID, err)
		}
		return nil
	})
}

// keepAlive tells Postgres of this worker and of its progress, and stops the work when the run is not its any more, or
// not wanted. It has a connection of its own, so that it does not queue behind requests.
func (w *worker) keepAlive(ctx context.Context, stop context.CancelCauseFunc) {
	again := time.NewTicker(w.options.Silence / 4)
	defer again.Stop()
	var link *pgx.Conn
	hangUp := func() {
		if link != nil {
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = link.Close(bounded)
			link = nil
		}
	}
	defer hangUp()
	heard := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		bounded, cancel := context.WithTimeout(w.bookkeeping(ctx), w.options.Silence/2)
		if link == nil {
			link, _ = w.db.connect(bounded)
		}
		through := conn(w.db) // where Postgres allows no further connection
		if link != nil {
			through = link
		}
		err := w.beat(bounded, through, w.options.Silence)
		cancel()
		switch {
		case err == nil:
			heard = time.Now()
		case errors.Is(err, errCancelled), errors.Is(err, errReplaced):
			stop(err)
			return
		default:
			hangUp()
			if time.Since(heard) > w.options.Silence {
				stop(fmt.Errorf("%w: %w", errSilent, err))
				return
			}
		}
	}
}

// beat brings the worker's row up to date, and the run's where it leads: errCancelled, errReplaced.
func (w *worker) beat(ctx context.Context, c conn, silence time.Duration) error {
	const beat = `-- name: reconcile_beat
WITH worker AS (
    UPDATE reconcile_workers
    SET silent_after = now() + $3, range = $4, examined = $5, degraded = $6, seconds = $7, db_trips = $8,
        redis_trips = $9, own_trips = $10
    WHERE id = $2
), lead AS (
    UPDATE reconcile_jobs SET silent_after = now() + $3
    WHERE id = $1 AND worker = $2 AND state IN ('running', 'cancelling')
)
SELECT state, worker, (SELECT coalesce(sum(examined), 0) FROM reconcile_ranges WHERE run = $1 AND n <> $4)
FROM reconcile_jobs WHERE id = $1`
	r := w.report()
	var state State
	var lead uuid.NullUUID
	var examined int64 // by all workers, without this one's range
	err := c.QueryRow(ctx, beat, w.job.ID, w.id, silence, r.n, r.examined, r.degraded, r.seconds, r.dbTrips,
		r.redisTrips, r.ownTrips).Scan(&state, &lead, &examined)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && state.Over(), err == nil && w.leads && lead.UUID != w.id:
		return errReplaced
	case err != nil:
		return err
	case state == Cancelling:
		return errCancelled
	}
	w.progress.mu.Lock()
	defer w.progress.mu.Unlock()
	if r.n == w.progress.n {
		w.progress.base = examined
		w.show()
	}
	return nil
}

// jittered spreads what several processes do at the same interval.
func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2))
}
