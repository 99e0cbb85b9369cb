package buffer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"
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
	fl := b.beginFlush(ctx, g)
	defer func() { fl.end(done, err) }()
	if done, err = fl.read(); err != nil || done.Replayed > 0 {
		return done, err
	}
	if done, err = b.commit(fl.ctx, []*flushing[ID]{fl}); err != nil {
		return Flushed{}, err
	}
	b.options.reached(pointCommitted)
	fl.acknowledge()
	return done, nil
}

// flushing is the flush of a claimed generation.
type flushing[ID id] struct {
	b     *Buffer[ID]
	g     claimed
	ids   []ID
	begun time.Time
	// replayed says that it was recorded before.
	replayed bool
	ctx      context.Context //nolint:containedctx // it has the flush's span
	span     trace.Span
	died     context.CancelFunc
}

func (b *Buffer[ID]) beginFlush(ctx context.Context, g claimed) *flushing[ID] {
	fl := &flushing[ID]{b: b, g: g, begun: time.Now()}
	fl.ctx, fl.span = b.tel.startFlush(ctx, b.label, g)
	var alive context.Context
	alive, fl.died = context.WithCancel(fl.ctx)
	go b.keepAlive(alive, g)
	return fl
}

func (fl *flushing[ID]) end(done Flushed, err error) {
	fl.died()
	fl.b.tel.flushed(fl.ctx, fl.b.label, fl.g, done, time.Since(fl.begun), err)
	fl.span.End()
}

// read reads the generation. When that is not there any more because it is applied, it was replayed.
func (fl *flushing[ID]) read() (done Flushed, err error) {
	fl.ids, err = fl.b.ids(fl.ctx, fl.g)
	if err != nil && fl.b.recorded(fl.ctx, fl.g) { // another process took this one for dead, and has flushed it
		return Flushed{Replayed: 1, Items: fl.g.size}, nil
	}
	return Flushed{}, err
}

// acknowledge removes it from Redis. It is done even if Redis cannot be told now: the generation is found again, and
// then its record.
func (fl *flushing[ID]) acknowledge() {
	if err := fl.b.acknowledge(fl.ctx, fl.g); err != nil {
		fl.span.RecordError(err)
	}
}

// record writes one row for each generation, and returns those that had none. A second flusher of the same generation
// waits here for the first one's commit; all write them in the order of their ids, so that two cannot wait for each
// other. A flusher that stands still in its transaction loses it after IdleTimeout, also behind a pooler, where a
// session has no settings of its own.
const record = `-- name: buffer_generation
INSERT INTO buffer_generations (id, buffer, items)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::int[]) AS given (id, buffer, items)
WHERE set_config('idle_in_transaction_session_timeout', $4, true) IS NOT NULL
ORDER BY id
ON CONFLICT (id) DO NOTHING
RETURNING id`

// commit applies the generations that are not recorded yet, in one transaction.
func (b *Buffers[ID]) commit(ctx context.Context, all []*flushing[ID]) (Flushed, error) {
	var done Flushed
	err := pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		done = Flushed{}
		fresh, err := b.record(ctx, tx, all)
		if err != nil {
			return fmt.Errorf("record: %w", err)
		}
		var generations []Generation
		var ids []ID
		for _, fl := range all {
			done.Items += int64(len(fl.ids))
			if fl.replayed = !fresh[fl.g.ID]; fl.replayed {
				done.Replayed++
				continue
			}
			done.Generations++
			generations = append(generations, fl.g.Generation)
			if b.options.ApplyAll == nil || len(all) == 1 {
				applied, err := b.options.Apply(ctx, tx, fl.g.Generation, fl.ids)
				if err != nil {
					return fmt.Errorf("apply: %w", err)
				}
				done.Applied += applied
				continue
			}
			ids = append(ids, fl.ids...)
		}
		if len(ids) > 0 {
			slices.Sort(ids)
			if done.Applied, err = b.options.ApplyAll(ctx, tx, generations, slices.Compact(ids)); err != nil {
				return fmt.Errorf("apply: %w", err)
			}
		}
		if done.Generations > 0 {
			b.options.reached(pointInTransaction)
		}
		return nil
	})
	return done, err
}

func (b *Buffers[ID]) record(
	ctx context.Context, tx pgx.Tx, all []*flushing[ID],
) (fresh map[uuid.UUID]bool, err error) {
	var ids, names []string // ids as text, which every way to send a statement knows (default_query_exec_mode)
	var items []int32
	for _, fl := range all {
		ids = append(ids, fl.g.ID.String())
		names = append(names, b.options.Name+":"+fl.g.Buffer)
		items = append(items, int32(len(fl.ids))) //nolint:gosec // a generation is bounded
	}
	rows, _ := tx.Query(ctx, record, ids, names, items,
		strconv.FormatInt(b.options.IdleTimeout.Milliseconds(), 10)) // CollectRows returns the error
	recorded, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	fresh = map[uuid.UUID]bool{}
	for _, id := range recorded {
		fresh[id] = true
	}
	return fresh, err
}

// flushDue cuts what is open of the buffers, and flushes it in as few transactions as their sizes allow. The lease of
// what fails is left to expire, as in take.
func (b *Buffers[ID]) flushDue(ctx context.Context, due []*Buffer[ID]) error {
	if len(due) <= 1 || b.options.ApplyAll == nil {
		var failed error
		for _, buf := range due {
			_, err := buf.flushOpen(ctx)
			failed = errors.Join(failed, err)
		}
		return failed
	}
	if !b.life.begin() {
		return ErrShutdown
	}
	defer b.life.end()
	var failed error
	for len(due) > 0 {
		var err error
		due, err = b.flushSome(ctx, due)
		failed = errors.Join(failed, err)
	}
	return failed
}

// flushSome flushes some of the buffers in one transaction, about FlushSize ids, and returns the others.
func (b *Buffers[ID]) flushSome(ctx context.Context, due []*Buffer[ID]) (rest []*Buffer[ID], err error) {
	bounded, cancel := context.WithTimeout(ctx, b.options.FlushTimeout)
	defer cancel()
	var all []*flushing[ID]
	var failed error
	for size := int64(0); len(due) > 0 && size < b.options.FlushSize; due = due[1:] {
		fl, err := due[0].cutAndRead(bounded)
		failed = errors.Join(failed, err)
		if fl != nil {
			all = append(all, fl)
			size += fl.g.size
		}
	}
	if len(all) == 0 {
		return due, failed
	}
	done, err := b.commit(all[0].ctx, all)
	if err == nil {
		b.options.reached(pointCommitted)
	}
	for _, fl := range all {
		// What was applied is known of the whole transaction only.
		each := Flushed{Generations: 1, Items: fl.g.size, Applied: done.Applied}
		if fl.replayed {
			each = Flushed{Replayed: 1, Items: fl.g.size}
		}
		switch {
		case err == nil:
			fl.acknowledge()
		case ctx.Err() != nil:
			fl.b.release(fl.ctx, fl.g)
		}
		fl.end(each, err)
	}
	return due, errors.Join(failed, err)
}

// cutAndRead returns what is open as a generation that is read; nil when nothing is.
func (b *Buffer[ID]) cutAndRead(ctx context.Context) (*flushing[ID], error) {
	g, err := b.cut(ctx)
	switch {
	case errors.Is(err, errGone):
		return nil, nil //nolint:nilnil // another process has it
	case err != nil:
		if ctx.Err() != nil {
			b.release(ctx, g)
		}
		return nil, fmt.Errorf("buffer %s: generation %s: %w", b.keys.member, g.ID, err)
	}
	fl := b.beginFlush(ctx, g)
	if done, err := fl.read(); err != nil || done.Replayed > 0 {
		if ctx.Err() != nil {
			b.release(ctx, g)
		}
		fl.end(done, err)
		return nil, err
	}
	return fl, nil
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
