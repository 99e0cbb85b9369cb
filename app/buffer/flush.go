package buffer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

// Flushed is what a flush has done.
type Flushed struct {
	// Generations is how many were recorded and applied. Replayed is how many had been recorded before, by a process that
	// died or was too slow before it could acknowledge them.
	Generations, Replayed int
	// Items is the number of ids in all of them, Applied the sum of what Apply returned.
	Items, Applied int64
}

func (f *Flushed) add(other Flushed) {
	f.Generations += other.Generations
	f.Replayed += other.Replayed
	f.Items += other.Items
	f.Applied += other.Applied
}

// Flush applies everything that Add has accepted so far, and returns when no generation of this buffer is left: it
// waits for those that other processes flush, and takes them over if they die. It stops at the first error; what it has
// not applied stays in Redis. When the context ends, it rolls back and releases its lease.
func (b *Buffer[ID]) Flush(ctx context.Context) (done Flushed, err error) {
	if done, err = b.flushOpen(ctx); err != nil {
		return done, err
	}
	for {
		left, recovered, err := b.recover(ctx)
		done.add(recovered)
		if err != nil || left == 0 {
			return done, err
		}
		select {
		case <-ctx.Done():
			return done, ctx.Err()
		case <-time.After(jittered(100 * time.Millisecond)):
		}
	}
}

// flushOpen flushes what is open, if anything is.
func (b *Buffer[ID]) flushOpen(ctx context.Context) (Flushed, error) {
	done, err := b.take(ctx, b.cut)
	if errors.Is(err, errGone) {
		return done, nil
	}
	return done, err
}

// recover flushes the generations whose lease is free, and returns how many other processes hold.
func (b *Buffer[ID]) recover(ctx context.Context) (held int, done Flushed, err error) {
	generations, err := b.waiting(ctx)
	if err != nil {
		return 0, done, fmt.Errorf("buffer %s: %w", b.keys.member, err)
	}
	for _, id := range generations {
		recovered, err := b.take(ctx, func(ctx context.Context) (claimed, error) { return b.claim(ctx, id) })
		done.add(recovered)
		switch {
		case errors.Is(err, errHeld):
			held++
		case err != nil && !errors.Is(err, errGone):
			return held, done, err
		}
	}
	return held, done, nil
}

// take claims a generation and flushes it. The lease of a flush that fails is left to expire, so that not every process
// tries again at once; the lease of one that was cancelled is released, because another process may well succeed.
func (b *Buffer[ID]) take(
	ctx context.Context, claim func(context.Context) (claimed, error),
) (done Flushed, err error) {
	if !b.life.begin() {
		return done, fmt.Errorf("buffer %s: %w", b.keys.member, ErrShutdown)
	}
	defer b.life.end()
	ctx, unbind := b.life.bind(ctx)
	defer unbind()
	g, err := claim(ctx)
	if err == nil {
		done, err = b.flush(ctx, g)
	}
	if err != nil && ctx.Err() != nil {
		b.release(ctx, g)
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	if err != nil {
		return done, fmt.Errorf("buffer %s: generation %s: %w", b.keys.member, g.ID, err)
	}
	return done, nil
}

// flush applies a claimed generation.
func (b *Buffer[ID]) flush(ctx context.Context, g claimed) (done Flushed, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.options.FlushTimeout)
	defer cancel()
	begun := time.Now()
	ctx, span := b.tel.startFlush(ctx, b.label, g)
	defer span.End()
	defer func() { b.tel.flushed(ctx, b.label, g, done, time.Since(begun), err) }()

	alive, died := context.WithCancel(ctx)
	defer died()
	go b.keepAlive(alive, g)

	ids, err := b.ids(ctx, g)
	if err != nil && b.recorded(ctx, g) { // another process took this one for dead, and has flushed the generation
		return Flushed{Replayed: 1, Items: g.size}, nil
	}
	if err != nil {
		return Flushed{}, err
	}
	if done, err = b.commit(ctx, g, ids); err != nil {
		return Flushed{}, err
	}
	b.options.reached(pointCommitted)
	// It is done even if Redis cannot be told now: the generation is found again, and then its record.
	if err := b.acknowledge(ctx, g); err != nil {
		span.RecordError(err)
	}
	return done, nil
}

// record writes one row for a generation. A second flusher of the same generation waits here for the first one's
// commit.
const record = `-- name: buffer_generation
INSERT INTO buffer_generations (id, buffer, items) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING`

// commit applies the ids unless that has been done.
func (b *Buffer[ID]) commit(ctx context.Context, g claimed, ids []ID) (Flushed, error) {
	done := Flushed{Items: int64(len(ids))}
	err := pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, record, g.ID, b.options.Name+":"+b.name, len(ids))
		if err != nil {
			return fmt.Errorf("record: %w", err)
		}
		if tag.RowsAffected() == 0 {
			done.Replayed = 1
			return nil
		}
		done.Generations = 1
		if done.Applied, err = b.options.Apply(ctx, tx, g.Generation, ids); err != nil {
			return fmt.Errorf("apply: %w", err)
		}
		b.options.reached(pointInTransaction)
		return nil
	})
	return done, err
}

// recorded says whether Postgres has the generation.
func (b *Buffer[ID]) recorded(ctx context.Context, g claimed) (there bool) {
	const find = `-- name: buffer_recorded
SELECT EXISTS (SELECT FROM buffer_generations WHERE id = $1)`
	err := b.pool.QueryRow(ctx, find, g.ID).Scan(&there)
	return err == nil && there
}

// jittered spreads what several processes do at the same interval.
func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2))
}
