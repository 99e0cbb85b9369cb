// Package buffer is a write buffer: Redis collects ids from any number of processes, and one transaction applies them
// all, where each alone would cost the database a round-trip.
//
// It promises that what Add has accepted is applied at least once, and that each generation, which is what was
// collected until a flush began, is recorded in the database at most once: however often processes die, a generation
// whose record is there is only forgotten, one without it is applied again. It holds no more than Redis does: with
// `appendfsync everysec` a Redis that dies takes up to a second of ids along. Whoever cannot afford that finds them
// again in the database, as those that are still waiting; so does this deployment.
//
// The protocol. ADD puts ids into the set `open`. CUT renames it to a generation, which is never added to again, and
// whose name is random: a counter would start anew after a loss of data, and its generations would look as if they had
// been applied. A flusher claims a generation by a lease and keeps it alive, reads it whole, and in one transaction
// records it and applies it; then it acknowledges, which forgets the generation. Whose lease has expired may be dead or
// only slow, so another claims the generation: of two who flush the same, the second waits at the record for the
// first's commit, finds it there, and applies nothing.
//
// How it fails. With Redis away or full, Add returns an error and the caller writes to the database itself. With the
// database away, generations wait in Redis and the oldest grows old. A flush that fails is tried again when its lease
// has run out, by any process that runs Run.
//
// It needs a table that the owner's migrations create:
//
//	CREATE TABLE buffer_generations (
//	    id         uuid        PRIMARY KEY,
//	    buffer     text        NOT NULL,
//	    items      int         NOT NULL,
//	    flushed_at timestamptz NOT NULL DEFAULT now()
//	)
//
// The ideas are old: Sidekiq's super_fetch and asynq recover work by leases, log-structured stores flush immutable
// segments. What is added here is the record in the transaction, which makes a second flush harmless.
//
// To lift it into another service, copy the folder. It needs go-redis, pgx, google/uuid and the OpenTelemetry API, and
// nothing else of this repository.
package buffer

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/propagation"
)

// id is what a buffer collects: the keys of rows.
type id interface{ int64 | string }

// Buffers are a family: all buffers whose ids are applied the same way. Its methods are safe for concurrent use.
type Buffers[ID id] struct {
	rdb     redis.UniversalClient
	pool    *pgxpool.Pool
	options Options[ID]
	tel     *instruments
	// full is told when a buffer has come to its FlushSize.
	full chan struct{}
	// known is what Run saw last.
	known sync.Map // buffer name -> Stats
}

// New returns a family of buffers between Redis and Postgres.
func New[ID id](rdb redis.UniversalClient, pool *pgxpool.Pool, o Options[ID]) *Buffers[ID] {
	o = o.withDefaults()
	b := &Buffers[ID]{
		rdb: rdb, pool: pool, options: o, full: make(chan struct{}, 1),
		tel: newInstruments(o.TracerProvider, o.MeterProvider),
	}
	b.tel.observe(b.lastSeen)
	return b
}

// Open returns the buffer of that name, which is any text that Postgres can write down. It exists in Redis while it
// holds something; a name costs nothing.
func (b *Buffers[ID]) Open(name string) *Buffer[ID] {
	return &Buffer[ID]{Buffers: b, name: name, label: b.options.Label(name)}
}

// Buffer is one buffer of a family. Its ids are apart from those of any other.
type Buffer[ID id] struct {
	*Buffers[ID]
	name, label string
}

// member is the buffer's name in the index, and the hash tag of its keys: all of a buffer is on one node of a Cluster.
func (b *Buffer[ID]) member() string { return b.options.Name + ":" + b.name }

func (b *Buffer[ID]) key(what string) string { return "buffer:{" + b.member() + "}:" + what }

const (
	// chunk is how many ids one script adds: Redis does nothing else meanwhile, so it must not be many.
	chunk = 1000
	// chunksAtOnce is how many chunks go in one pipeline.
	chunksAtOnce = 20
)

// Add returns when Redis has the ids; those that are there already are there once. After an error some of them may be
// in the buffer, and applied in time: adding them again, or applying them otherwise, does no harm.
func (b *Buffer[ID]) Add(ctx context.Context, ids ...ID) error {
	for part := range slices.Chunk(ids, chunk*chunksAtOnce) {
		open, err := b.add(ctx, part)
		if err != nil {
			b.tel.added(ctx, b.label, outcomeRefused, len(part))
			return fmt.Errorf("buffer %s: %w", b.member(), err)
		}
		b.tel.added(ctx, b.label, outcomeAdded, len(part))
		b.options.reached(pointAdded)
		if open >= b.options.FlushSize {
			select {
			case b.full <- struct{}{}:
			default: // Run knows already
			}
		}
	}
	return nil
}

// add is one pipeline, and so one round-trip. It returns how many ids are open.
func (b *Buffer[ID]) add(ctx context.Context, ids []ID) (int64, error) {
	keys := []string{b.key("open"), b.key("open:manifest")}
	from := traceparent(ctx)
	send := func() ([]redis.Cmder, error) {
		return b.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			// First, so that there is no id whose buffer recovery would not find.
			pipe.ZAdd(ctx, index, redis.Z{Score: float64(time.Now().UnixMilli()), Member: b.member()})
			for part := range slices.Chunk(ids, chunk) {
				args := make([]any, 0, 2+len(part))
				args = append(args, from, b.options.Producers)
				for _, id := range part {
					args = append(args, id)
				}
				addScript.EvalSha(ctx, pipe, keys, args...)
			}
			return nil
		})
	}
	replies, err := send()
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		if err = addScript.Load(ctx, b.rdb).Err(); err == nil {
			replies, err = send()
		}
	}
	if err != nil {
		return 0, err
	}
	return replies[len(replies)-1].(*redis.Cmd).Int64()
}

// Drop forgets what is open: it is not applied. What a flush has begun with is.
func (b *Buffer[ID]) Drop(ctx context.Context) error {
	if err := b.rdb.Unlink(ctx, b.key("open"), b.key("open:manifest")).Err(); err != nil {
		return fmt.Errorf("buffer %s: drop: %w", b.member(), err)
	}
	return nil
}

// parse reads an id as Redis returns it.
func parse[ID id](s string) (parsed ID, err error) {
	switch p := any(&parsed).(type) {
	case *int64:
		*p, err = strconv.ParseInt(s, 10, 64)
	case *string:
		*p = s
	}
	return parsed, err
}

// traceparent writes the context's span in W3C form; empty where there is none.
func traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}
