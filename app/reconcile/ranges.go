package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nervous/app/buffer"
)

// rangeSize is how many pending payments a range has at most when it is cut. It bounds what a buffered run holds of
// Redis and of each process, and the time of a transaction that marks a whole range.
const rangeSize = 25_000

const cutSQL = `-- name: reconcile_cut
SELECT reconcile_cut($1, $2)`

// cut cuts the run's next range, and says whether there is another one to cut.
func (d *database) cut(ctx context.Context, run uuid.UUID) (more bool, err error) {
	err = d.within(ctx, workTimeout, func(ctx context.Context) error {
		return d.QueryRow(ctx, cutSQL, run, rangeSize).Scan(&more)
	})
	if err != nil {
		return false, fmt.Errorf("cut run %s into ranges: %w", run, err)
	}
	return more, nil
}

// claim makes the worker the owner of the run's first range that has none; none when all are done or have one.
func (d *database) claim(ctx context.Context, run, worker uuid.UUID) (in idRange, found bool, err error) {
	const claim = `-- name: reconcile_claim
SELECT n, epoch, after, last, payments, page_after, page_last FROM reconcile_claim($1, $2)`
	in = idRange{run: run, owner: worker}
	err = d.within(ctx, workTimeout, func(ctx context.Context) error {
		return d.QueryRow(ctx, claim, run, worker).Scan(
			&in.n, &in.epoch, &in.after, &in.last, &in.payments, &in.pageAfter, &in.pageLast)
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return idRange{}, false, nil
	case err != nil:
		return idRange{}, false, fmt.Errorf("claim a range of run %s: %w", run, err)
	}
	return in, true, nil
}

// unfinished counts the ranges that are not done.
func (d *database) unfinished(ctx context.Context, run uuid.UUID) (n int64, err error) {
	const unfinished = `-- name: reconcile_unfinished
SELECT count(*) FROM reconcile_ranges WHERE run = $1 AND NOT done`
	err = d.within(ctx, recordTimeout, func(ctx context.Context) error {
		return d.QueryRow(ctx, unfinished, run).Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("count the ranges of run %s: %w", run, err)
	}
	return n, nil
}

// bufferName is the name of the buffer in which a range collects.
func (in idRange) bufferName() string { return fmt.Sprintf("%s/%d", in.run, in.n) }

// runOf returns the run that a buffer belongs to. Releases without ranges named the buffer by the run alone.
func runOf(buffer string) (run uuid.UUID, is bool) {
	if len(buffer) > 36 && buffer[36] == '/' {
		buffer = buffer[:36]
	}
	run, err := uuid.Parse(buffer)
	return run, err == nil
}

// ownedRanges are the ranges that this process owns, by the name of their buffer.
type ownedRanges struct {
	mu    sync.Mutex
	owned map[string]idRange
}

func (r *ownedRanges) own(in idRange) (disown func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.owned == nil {
		r.owned = map[string]idRange{}
	}
	r.owned[in.bufferName()] = in
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.owned, in.bufferName())
	}
}

func (r *ownedRanges) of(buffer string) (in idRange, owned bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in, owned = r.owned[buffer]
	return in, owned
}

// apply marks the payments of one generation.
func (r *Reconciler) apply(ctx context.Context, tx pgx.Tx, g buffer.Generation, ids []int64) (int64, error) {
	if _, ofRun := runOf(g.Buffer); !ofRun {
		return r.db.markLive(ctx, tx, ids)
	}
	in, owned := r.ownedRanges.of(g.Buffer)
	if !owned {
		return 0, fmt.Errorf("%w: this process does not own range %s", errStale, g.Buffer)
	}
	return r.db.markIDs(ctx, tx, in, ids)
}

// applyLive marks the payments of several generations of live events.
func (r *Reconciler) applyLive(
	ctx context.Context, tx pgx.Tx, _ []buffer.Generation, ids []int64,
) (int64, error) {
	return r.db.markLive(ctx, tx, ids)
}

// ownership says which buffers of runs have lost their run: it is over, and what it had collected is pending for the
// next one.
func (r *Reconciler) ownership(ctx context.Context, names []string) (map[string]buffer.Ownership, error) {
	runs := map[uuid.UUID][]string{}
	var ids []string // as text, which every way to send a statement knows (default_query_exec_mode)
	for _, name := range names {
		if run, is := runOf(name); is {
			runs[run] = append(runs[run], name)
			ids = append(ids, run.String())
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	const going = `-- name: reconcile_going
SELECT id FROM reconcile_jobs WHERE id = ANY($1::uuid[]) AND state IN ('running', 'cancelling')`
	owned := map[string]buffer.Ownership{}
	for _, names := range runs {
		for _, name := range names {
			owned[name] = buffer.Orphaned
		}
	}
	err := r.db.within(ctx, recordTimeout, func(ctx context.Context) error {
		rows, _ := r.db.Query(ctx, going, ids) // ForEachRow returns the error
		var run uuid.UUID
		_, err := pgx.ForEachRow(rows, []any{&run}, func() error {
			for _, name := range runs[run] {
				owned[name] = buffer.Owned
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look which runs go on: %w", err)
	}
	return owned, nil
}
