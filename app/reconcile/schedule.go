package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// lookEvery is how often a replica looks whether something is due. What is due is known by Postgres, so it does not
// matter how long a replica lives.
const lookEvery = 10 * time.Second

const (
	// keepRuns is how long a run's record is kept, keepGenerations how long a generation's: no generation stays in Redis
	// for so long.
	keepRuns        = 30 * 24 * time.Hour
	keepGenerations = 7 * 24 * time.Hour
	pruneEvery      = time.Hour
)

// keepSchedule does what is due, until the context ends.
func (r *Reconciler) keepSchedule(ctx context.Context) {
	every := lookEvery
	if r.options.Every > 0 {
		every = min(every, r.options.Every/10)
	}
	for wait := time.Duration(0); ; wait = jittered(every) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		work := withTally(ctx, "job bookkeeping", r.options.ByItself)
		err := errors.Join(r.startDue(work), r.pruneDue(work), r.countDisagreeing(work))
		if err != nil && ctx.Err() == nil {
			slog.WarnContext(ctx, "not all that is due could be done; it is tried again", "error", err)
		}
	}
}

// startDue starts a run when the last complete one ended longer than Every ago. A run with a limit, or one that failed
// or was cancelled, gives no guarantee and so does not count.
func (r *Reconciler) startDue(ctx context.Context) error {
	if r.options.Every == 0 {
		return nil
	}
	const due = `-- name: reconcile_due
SELECT NOT EXISTS (SELECT FROM reconcile_jobs WHERE state IN ('running', 'cancelling'))
    AND NOT EXISTS (
        SELECT FROM reconcile_jobs WHERE state = 'done' AND most IS NULL AND finished_at > now() - $1::interval)
    AND NOT EXISTS (SELECT FROM maintenance WHERE task = 'first run' AND done > now() - $1::interval)`
	var is bool
	err := r.db.within(ctx, recordTimeout, func(ctx context.Context) error {
		return r.db.QueryRow(ctx, due, r.options.Every).Scan(&is)
	})
	if err != nil {
		return fmt.Errorf("look whether a run is due: %w", err)
	}
	if !is {
		return nil
	}
	_, err = r.Start(ctx, r.options.ByItself, 0)
	if _, busy := errors.AsType[RunningError](err); busy {
		return nil
	}
	return err
}

// pruneDue deletes old records, once an hour over all replicas. The last complete run stays, because the next one is
// due by it.
func (r *Reconciler) pruneDue(ctx context.Context) error {
	const due = `-- name: reconcile_prune_due
UPDATE maintenance SET done = now() WHERE task = 'prune' AND done < now() - $1::interval`
	const prune = `-- name: reconcile_prune
DELETE FROM reconcile_jobs WHERE id IN (
    SELECT id FROM reconcile_jobs
    WHERE finished_at < now() - $1::interval AND id IS DISTINCT FROM (
        SELECT id FROM reconcile_jobs WHERE state = 'done' AND most IS NULL ORDER BY finished_at DESC LIMIT 1)
    ORDER BY finished_at LIMIT 1000)`
	err := r.db.within(ctx, workTimeout, func(ctx context.Context) error {
		mine, err := r.db.Exec(ctx, due, pruneEvery)
		if err != nil || mine.RowsAffected() == 0 {
			return err
		}
		for {
			deleted, err := r.db.Exec(ctx, prune, keepRuns)
			if err != nil || deleted.RowsAffected() < 1000 {
				return errors.Join(err, r.buffers.Prune(ctx, keepGenerations))
			}
		}
	})
	if err != nil {
		return fmt.Errorf("delete old records: %w", err)
	}
	return nil
}
