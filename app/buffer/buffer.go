// Package buffer is a write buffer: Redis collects ids from any number of processes, and one transaction applies all of
// them, instead of one round-trip to the database for each.
//
// # Protocol
//
// ADD puts ids into the set `open`. CUT renames it to a generation, to which nothing is added any more; ADD does so
// itself when enough ids are open, so a generation is never large, however long the database is away. A generation has
// a random name: a counter would start again after a loss of data, and its generations would look applied. A
// flusher claims a generation by a lease, extends the lease while it works, reads the whole generation, and in one
// transaction records and applies it. Then it acknowledges, which removes the generation from Redis. When a lease has
// expired, its holder may be dead or only slow, so another process claims the generation. If both flush it, the second
// one waits at the record for the first one's commit, finds it, and applies nothing.
//
// # Promise
//
// Ids that Add has accepted are applied at least once. Each generation, which is what was collected until a flush
// began, is recorded in the database at most once: a generation that is recorded is only removed, one that is not is
// applied, however often processes die.
//
// Redis must keep what it has accepted. What that means depends on how it runs:
//   - One server, with or without TLS: with `appendfsync everysec`, a machine that fails loses up to a second of ids;
//     without persistence, a restart loses all of them.
//   - Sentinel, and Cluster with replicas: replication is asynchronous, so a failover loses the ids that the replica
//     did not have. Adds and flushes return errors until the replica is promoted.
//   - Cluster: a buffer is on one node, the index of buffers on another. Add confirms that the buffer is in the index
//     before it sends ids, and then every 15 seconds, so an accepted id is always found. If the node of the index loses
//     its data, Run puts in again the buffers that its process knows. A buffer that no living process knows is lost to
//     recovery then. While a slot moves, Add may return an error (TRYAGAIN), and flushes of its buffers wait.
//
// A service that must not lose ids compares with the database from time to time, as this deployment does.
//
// # Failures
//
// When Redis is away, full, read-only or loading, Add returns an error and the caller writes to the database itself. So
// it does when the buffer holds Options.MaxItems (ErrFull), so that a backlog does not take all of Redis.
// When the database is away, generations wait in Redis and their age grows. A flush that fails is tried again when its
// lease has expired, by any process that calls Run. A flush that Shutdown cancels is free at once.
//
// It needs go-redis, Redis 7.0 or later, and a table that the owner's migrations create:
//
//	CREATE TABLE buffer_generations (
//	    id         uuid        PRIMARY KEY,
//	    buffer     text        NOT NULL,
//	    items      int         NOT NULL,
//	    flushed_at timestamptz NOT NULL DEFAULT now()
//	);
//	CREATE INDEX ON buffer_generations (flushed_at);
//
// Prune deletes what is old in it; call it from time to time.
//
// Recovery of work by leases is as in Sidekiq's super_fetch and in asynq, immutable segments are as in log-structured
// stores. The record in the same transaction is what makes a second flush harmless.
//
// To use it in another service, copy the folder. It needs go-redis, pgx, google/uuid and the OpenTelemetry API, and
// nothing else of this repository.
package buffer

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
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
	life    *lifetime
	// oneServer says that all keys are on one server, so that a script may use a buffer's and the index.
	oneServer   bool
	memberships memberships
	// full is signalled when a buffer has reached its FlushSize.
	full chan struct{}
	// known is what Run saw last.
	known sync.Map // prefix of keys -> seen
	// soon is in what time the next of Run's own buffers is due. Only Run uses it.
	soon time.Duration
	// asked is when Run asked for owners last. Only Run uses it.
	asked time.Time
	// legacyNext is when Run looks for buffers of older releases again. Only Run uses it.
	legacyNext time.Time
}

// New returns a family of buffers between Redis and Postgres. It panics on options that cannot work, because those are
// a fault of the program and not of its environment.
func New[ID id](rdb redis.UniversalClient, pool *pgxpool.Pool, o Options[ID]) *Buffers[ID] {
	o = o.withDefaults()
	_, oneServer := rdb.(*redis.Client)
	b := &Buffers[ID]{
		rdb: rdb, pool: pool, options: o, full: make(chan struct{}, 1), life: newLifetime(), oneServer: oneServer,
		memberships: memberships{confirmed: map[string]time.Time{}},
		tel:         newInstruments(o.TracerProvider, o.MeterProvider),
	}
	b.tel.observe(b.lastSeen)
	return b
}

// Open returns the buffer of that name, which is any text that Postgres can store. It exists in Redis while it has ids;
// a name alone costs nothing.
func (b *Buffers[ID]) Open(name string) *Buffer[ID] {
	return &Buffer[ID]{Buffers: b, name: name, label: b.options.Label(name), keys: b.options.keys(name)}
}

// Buffer is one buffer of a family. Its ids are apart from those of any other.
type Buffer[ID id] struct {
	*Buffers[ID]
	name, label string
	keys        keys
	legacy      bool
}

const (
	// chunk is how many ids one script adds. Redis does nothing else meanwhile, so it must not be many.
	chunk = 1000
	// chunksAtOnce is how many chunks go in one pipeline.
	chunksAtOnce = 20
)

// ErrFull is the error of Add while a buffer holds as many ids as it may: see Options.MaxItems.
var ErrFull = errors.New("the buffer holds as many ids as it may")

// Add returns nil when Redis has the ids; an id that is there already is there once. After an error some of them may be
// in the buffer and be applied in time: it does no harm to add them again, or to apply them otherwise. 20,000 ids are
// one round-trip, and on a Cluster one more every 15 seconds.
func (b *Buffer[ID]) Add(ctx context.Context, ids ...ID) error {
	return b.AddSpread(ctx, []*Buffer[ID]{b}, ids...)
}

// AddSpread is Add for ids that are spread over several buffers, each id always to the same one. On one server it is
// one round-trip as well, on a Cluster one to each node.
func (b *Buffers[ID]) AddSpread(ctx context.Context, over []*Buffer[ID], ids ...ID) error {
	for part := range slices.Chunk(ids, chunk*chunksAtOnce) {
		if err := b.add(ctx, spread(over, part)); err != nil {
			outcome := outcomeRefused
			if redis.HasErrorPrefix(err, "BUFFERFULL") {
				outcome = outcomeFull
				err = fmt.Errorf("%w, of %d: %w", ErrFull, b.options.MaxItems, err)
			}
			b.tel.added(ctx, over[0].label, outcome, len(part))
			return fmt.Errorf("buffer %s: add: %w", over[0].keys.member, err)
		}
		b.tel.added(ctx, over[0].label, outcomeAdded, len(part))
		b.options.reached(pointAdded)
	}
	return nil
}

// addition is what one script adds.
type addition[ID id] struct {
	to  *Buffer[ID]
	ids []ID
}

func spread[ID id](over []*Buffer[ID], ids []ID) (all []addition[ID]) {
	to := make([][]ID, len(over))
	if len(over) == 1 {
		to[0] = ids
	} else {
		for _, id := range ids {
			h := fnv.New32a()
			_, _ = fmt.Fprint(h, id)
			i := h.Sum32() % uint32(len(over)) //nolint:gosec // a few
			to[i] = append(to[i], id)
		}
	}
	for i, ids := range to {
		for part := range slices.Chunk(ids, chunk) {
			all = append(all, addition[ID]{over[i], part})
		}
	}
	return all
}

// add sends the additions, and tells Run of a buffer that is large enough now.
func (b *Buffers[ID]) add(ctx context.Context, all []addition[ID]) error {
	if err := confirm(ctx, all, 4); err != nil {
		return err
	}
	open, err := b.send(ctx, all, addScript.EvalSha)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		open, err = b.send(ctx, all, addScript.Eval) // not SCRIPT LOAD, which a user may be forbidden
	}
	if err != nil {
		return err
	}
	if open >= b.options.FlushSize {
		select {
		case b.full <- struct{}{}:
		default: // Run knows already
		}
	}
	// After a long pause of this process, another one may have taken the buffer for empty and out of the index.
	return confirm(ctx, all, 2)
}

func confirm[ID id](ctx context.Context, all []addition[ID], part time.Duration) error {
	for _, a := range all {
		if err := a.to.confirm(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// send adds ids in one pipeline, and returns how many are open in the largest of the buffers.
func (b *Buffers[ID]) send(
	ctx context.Context, all []addition[ID],
	eval func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd,
) (open int64, err error) {
	from := traceparent(ctx)
	replies, err := b.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, a := range all {
			keys := a.to.keys
			names := []string{keys.of("open"), keys.of("open:manifest"), keys.of("generations"), keys.of("held")}
			if b.oneServer {
				names = append(names, keys.index)
			}
			args := make([]any, 0, 7+len(a.ids))
			args = append(args, from, b.options.Producers, keys.member, keys.prefix, b.options.FlushSize,
				b.options.MaxItems, uuid.NewString())
			for _, id := range a.ids {
				args = append(args, id)
			}
			eval(ctx, pipe, names, args...)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, reply := range replies {
		n, err := reply.(*redis.Cmd).Int64()
		if err != nil {
			return 0, err
		}
		open = max(open, n)
	}
	return open, nil
}

// Drop removes what is open without applying it. A flush that has begun is not affected.
func (b *Buffer[ID]) Drop(ctx context.Context) error {
	if err := b.rdb.Unlink(ctx, b.keys.of("open"), b.keys.of("open:manifest")).Err(); err != nil {
		return fmt.Errorf("buffer %s: drop: %w", b.keys.member, err)
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
