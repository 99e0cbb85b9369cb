package buffer

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Ownership is what Run does with a buffer that it has found and that is not its own.
type Ownership int

const (
	// Unowned means that Run flushes generations whose flusher is gone.
	Unowned Ownership = iota
	// Owned means that its owner flushes it by Buffer.Flush, which also takes over generations of an owner before. Run
	// leaves it alone.
	Owned
	// Orphaned means that it has no owner any more. Run removes its ids, whatever stage they are at; only ids that can be
	// found again otherwise may be collected in a buffer that can become so. A flush that is under way may still be
	// committed.
	Orphaned
)

// orphanAfter is how long nothing was added to a buffer before Run asks which owner it has, and how often Run asks. So
// a job that is collecting costs the database no query a second.
const orphanAfter = 5 * time.Second

// ownership returns what to do with each of the listed buffers that is not continuous.
func (b *Buffers[ID]) ownership(
	ctx context.Context, listed map[string]indexEntry, continuous []string,
) map[string]Ownership {
	of := map[string]Ownership{}
	if b.options.Ownership == nil {
		return of
	}
	var ask []string
	for name, entry := range listed {
		if slices.Contains(continuous, name) {
			continue
		}
		of[name] = Owned
		if entry.age >= b.options.orphanAfter {
			ask = append(ask, name)
		}
	}
	if len(ask) == 0 || time.Since(b.asked) < b.options.orphanAfter {
		return of
	}
	b.asked = time.Now()
	answers, err := b.options.Ownership(ctx, ask)
	if err != nil {
		slog.WarnContext(ctx, "it is not known which buffers have an owner; they are left as they are",
			"buffers", b.options.Name, "error", err)
		return of
	}
	for _, name := range ask {
		of[name] = answers[name]
	}
	return of
}

// discard removes all ids of the buffer.
func (b *Buffer[ID]) discard(ctx context.Context) error {
	ids, err := discardScript.Run(ctx, b.rdb, []string{
		b.keys.of("open"), b.keys.of("open:manifest"), b.keys.of("generations"), b.keys.of("held"),
	}, b.keys.prefix).Int64()
	if err != nil {
		return fmt.Errorf("buffer %s: discard: %w", b.keys.member, err)
	}
	if ids > 0 {
		b.tel.droppedIDs(ctx, b.label, ids)
		slog.InfoContext(ctx, "a buffer without an owner was removed", "buffer", b.keys.member, "ids", ids)
	}
	return nil
}
