package buffer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"
)

// Run flushes the given buffers by size and age, and recovers what flushers that died have left in any buffer of the
// family. Every replica runs it, and the first to look does the work. When the context ends, it begins nothing more and
// returns; a flush that is under way goes on, and Shutdown waits for it. It returns nil: what fails is tried again, and
// counted.
func (b *Buffers[ID]) Run(ctx context.Context, continuous ...*Buffer[ID]) error {
	var names []string
	for _, c := range continuous {
		names = append(names, c.name)
	}
	if !b.life.begin() {
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.life.end()
		b.rounds(ctx, names)
	}()
	select {
	case <-ctx.Done():
	case <-done:
	}
	return nil
}

func (b *Buffers[ID]) rounds(ctx context.Context, continuous []string) {
	failing := false
	for wait := time.Duration(0); ; wait = min(jittered(b.options.FlushAge), b.soon) {
		select {
		case <-ctx.Done():
			return
		case <-b.life.closing:
			return
		case <-b.full:
		case <-time.After(wait):
		}
		b.soon = math.MaxInt64
		detached, unbind := b.life.bind(b.options.Detach(context.WithoutCancel(ctx)))
		err := b.round(ctx, detached, continuous)
		unbind()
		// A generation whose flush has failed is held until its lease expires: without an error now, it may fail again.
		if failed := err != nil || failing && b.waits(); failed != failing && ctx.Err() == nil {
			failing = failed
			slog.WarnContext(ctx, "flushing changed", "buffers", b.options.Name, "failing", failing, "error", err)
		}
	}
}

// waits says whether generations were waiting when Run last looked.
func (b *Buffers[ID]) waits() bool {
	for _, holds := range b.lastSeen() {
		if holds.Generations > 0 {
			return true
		}
	}
	return false
}

// round looks at every buffer once, until ctx ends.
func (b *Buffers[ID]) round(ctx, work context.Context, continuous []string) error {
	listed, err := b.list(work, b.options.index(), escape(b.options.Name))
	if err != nil {
		return err
	}
	err = b.restore(work, listed)
	for _, name := range continuous {
		err = errors.Join(err, b.Open(name).confirm(work, 4)) // so that no Add has to
		if _, known := listed[name]; !known {
			listed[name] = indexEntry{}
		}
	}
	owned := b.ownership(work, listed, continuous)
	buffers := make([]*Buffer[ID], 0, len(listed))
	looked := map[string]bool{}
	for name := range listed {
		buf := b.Open(name)
		buffers = append(buffers, buf)
		looked[buf.keys.prefix] = true
	}
	all, errs := b.statsOf(work, buffers)
	var open, due []*Buffer[ID]
	for i, buf := range buffers {
		if ctx.Err() != nil {
			return err
		}
		if errs[i] != nil {
			err = errors.Join(err, errs[i])
			continue
		}
		holds, own := all[i], slices.Contains(continuous, buf.name)
		err = errors.Join(err, buf.tend(work, holds, own, owned[buf.name], listed[buf.name]))
		switch {
		case !own || holds.Open == 0:
		case buf.due(holds):
			due = append(due, buf)
		case holds.Generations == 0:
			open = append(open, buf)
		}
	}
	b.unsee(false, looked)
	if len(due) > 0 { // one transaction takes what others have as well
		due = append(due, open...)
	}
	return errors.Join(err, b.flushDue(work, due), b.legacyRound(ctx, work, continuous))
}

// restore puts into the index again what it has lost: buffers that this process counts on, and those that were not
// empty when it last looked.
func (b *Buffers[ID]) restore(ctx context.Context, listed map[string]indexEntry) (err error) {
	missing := b.memberships.valid(b.options.forgetAfter)
	b.known.Range(func(_, last any) bool {
		if s := last.(seen); s.Depth > 0 && !s.legacy {
			missing = append(missing, s.name)
		}
		return true
	})
	for _, name := range missing {
		if _, there := listed[name]; !there {
			err = errors.Join(err, b.Open(name).register(ctx))
			listed[name] = indexEntry{}
		}
	}
	return err
}

// tend recovers what flushers that are gone have left of a buffer, as far as it is Run's to do.
func (b *Buffer[ID]) tend(
	ctx context.Context, holds Stats, continuous bool, owned Ownership, listed indexEntry,
) (err error) {
	b.saw(holds)
	if left := b.options.FlushAge - holds.openAge; continuous && left > 0 && holds.Open > 0 {
		b.soon = min(b.soon, left+jittered(left/16)) // the next look is when that is due
	}
	switch {
	case holds.Depth == 0 && holds.Generations == 0:
		if !continuous || b.legacy {
			err = b.forget(ctx, listed)
		}
	case owned == Orphaned:
		err = b.discard(ctx)
	case owned == Unowned && holds.Generations > 0:
		_, _, err = b.recover(ctx)
	}
	return err
}

// due says whether it is time to cut. While a generation waits, size counts, and age only when it exceeds the time that
// a flush may take: if the database is away, one large generation is better than one a second; if only that generation
// cannot be applied, the others must not wait for it for ever.
func (b *Buffer[ID]) due(s Stats) bool {
	patience := b.options.FlushAge
	if s.Generations > 0 {
		patience = max(patience, b.options.FlushTimeout)
	}
	return s.Open >= b.options.FlushSize || s.Open > 0 && s.openAge >= patience
}

// pruned is how many rows one statement deletes.
const pruned = 5000

// Prune deletes the records of generations that were flushed longer ago than that, by an index on flushed_at. A
// generation that comes later than that is applied again, which Apply must allow anyway.
func (b *Buffers[ID]) Prune(ctx context.Context, keep time.Duration) error {
	const old = `-- name: buffer_prune
DELETE FROM buffer_generations WHERE id IN (
    SELECT id FROM buffer_generations WHERE flushed_at < now() - $1::interval ORDER BY flushed_at LIMIT $2)`
	for {
		deleted, err := b.pool.Exec(ctx, old, keep, pruned)
		if err != nil {
			return fmt.Errorf("buffers %s: prune: %w", b.options.Name, err)
		}
		if deleted.RowsAffected() < pruned {
			return nil
		}
	}
}
