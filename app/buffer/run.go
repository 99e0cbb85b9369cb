package buffer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Run flushes the given buffers by size and age, and recovers what flushers that died have left, of any buffer of the
// family, until the context ends; then it finishes the flush that it is at. Every replica runs it, and whoever comes
// first does the work. It returns nil: what fails is tried again, and counted.
func (b *Buffers[ID]) Run(ctx context.Context, continuous ...*Buffer[ID]) error {
	var names []string
	for _, c := range continuous {
		names = append(names, c.name)
	}
	prune := time.NewTicker(time.Hour)
	defer prune.Stop()
	failing := false
	for {
		work := b.options.Detach(context.WithoutCancel(ctx))
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-prune.C:
			err = b.prune(work)
		case <-b.full:
			err = b.round(work, names)
		case <-time.After(jittered(b.options.FlushAge)):
			err = b.round(work, names)
		}
		// A generation whose flush has failed is held until its lease runs out: no error now does not mean that all is well.
		if failed := err != nil || failing && b.waits(); failed != failing {
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

// round looks at every buffer once.
func (b *Buffers[ID]) round(ctx context.Context, continuous []string) error {
	added, err := b.indexed(ctx)
	if err != nil {
		return err
	}
	for _, name := range continuous {
		if _, known := added[name]; !known {
			added[name] = 0
		}
	}
	for name, when := range added {
		err = errors.Join(err, b.Open(name).tend(ctx, slices.Contains(continuous, name), when))
	}
	b.known.Range(func(name, _ any) bool {
		if _, present := added[name.(string)]; !present {
			b.known.Delete(name)
		}
		return true
	})
	return err
}

// tend flushes what is due of one buffer.
func (b *Buffer[ID]) tend(ctx context.Context, continuous bool, added float64) error {
	holds, err := b.Stats(ctx)
	if err != nil {
		return err
	}
	b.known.Store(b.name, holds)
	if continuous && b.due(holds) {
		if _, err := b.flushOpen(ctx); err != nil {
			return err
		}
	}
	if holds.Generations > 0 {
		_, _, err := b.recover(ctx)
		return err
	}
	if holds.Depth == 0 && !continuous {
		return b.forget(ctx, added)
	}
	return nil
}

// due says whether it is time to cut. While a generation waits, size counts, and age only when it exceeds what a flush
// may take: if the database is away, a large generation is better than one a second, and if only that generation cannot
// be applied, the others must not wait for it for ever.
func (b *Buffer[ID]) due(s Stats) bool {
	patience := b.options.FlushAge
	if s.Generations > 0 {
		patience = max(patience, b.options.FlushTimeout)
	}
	return s.Open >= b.options.FlushSize || s.Open > 0 && s.openAge >= patience
}

// prune forgets the records of generations that nobody can still flush. One that comes later than that is applied
// again, which Apply must bear anyway.
func (b *Buffers[ID]) prune(ctx context.Context) error {
	const old = `-- name: buffer_prune
DELETE FROM buffer_generations WHERE flushed_at < now() - interval '7 days'`
	if _, err := b.pool.Exec(ctx, old); err != nil {
		return fmt.Errorf("buffers %s: prune: %w", b.options.Name, err)
	}
	return nil
}
