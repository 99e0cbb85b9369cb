package buffer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Generation is what a buffer had collected when a flush began.
type Generation struct {
	// Buffer is the name by which the buffer was opened.
	Buffer string
	// ID is random.
	ID uuid.UUID
}

// claimed is a generation whose lease this process holds.
type claimed struct {
	Generation
	token     string
	size      int64
	producers []trace.SpanContext
	origin    string
}

var (
	// errHeld: another process has the lease.
	errHeld = errors.New("another process flushes the generation")
	// errGone: it has been acknowledged, or Redis has lost it.
	errGone = errors.New("the generation is not in Redis any more")
)

func (b *Buffer[ID]) generationKey(id uuid.UUID) string { return b.keys.of("gen:" + id.String()) }

func (b *Buffer[ID]) manifestKey(id uuid.UUID) string { return b.generationKey(id) + ":manifest" }

func (b *Buffer[ID]) leaseKey(id uuid.UUID) string { return b.keys.of("lease:" + id.String()) }

// cut makes what is open a generation and claims it; errGone when nothing is open. It is not repeated: if only the
// reply is lost, the generation is there without a flusher, and recovery claims it. A Cluster's client does repeat it,
// and must not when the lease may have expired: that could cut other ids under a name that Postgres has recorded, and
// lose them. After an error the lease may be ours all the same.
func (b *Buffer[ID]) cut(ctx context.Context) (claimed, error) {
	ctx, cancel := context.WithTimeout(ctx, b.options.Lease/2)
	defer cancel()
	g := claimed{Generation: Generation{b.name, uuid.New()}, token: uuid.NewString(), origin: originCut}
	reply, err := cutScript.Run(ctx, b.rdb, []string{
		b.keys.of("open"), b.keys.of("open:manifest"), b.keys.of("generations"),
		b.generationKey(g.ID), b.manifestKey(g.ID), b.leaseKey(g.ID), b.keys.of("held"),
	}, g.ID.String(), g.token, b.options.Lease.Milliseconds()).Slice()
	if err != nil {
		return g, fmt.Errorf("cut: %w", err)
	}
	if err := g.read(reply); err != nil {
		return g, err
	}
	if g.size == 0 {
		return g, errGone
	}
	b.options.reached(pointCut)
	return g, nil
}

// claim takes over the generation of a flusher that is gone: errHeld, errGone. After an error the lease may be ours all
// the same.
func (b *Buffer[ID]) claim(ctx context.Context, id uuid.UUID) (claimed, error) {
	g := claimed{Generation: Generation{b.name, id}, token: uuid.NewString(), origin: originRecovered}
	reply, err := claimScript.Run(ctx, b.rdb, []string{
		b.generationKey(id), b.manifestKey(id), b.leaseKey(id), b.keys.of("generations"),
	}, id.String(), g.token, b.options.Lease.Milliseconds()).Slice()
	if err != nil {
		return g, fmt.Errorf("claim: %w", err)
	}
	if err := g.read(reply); err != nil {
		return g, err
	}
	switch g.size {
	case -1:
		return g, errGone
	case 0:
		return g, errHeld
	}
	b.options.reached(pointClaimed)
	return g, nil
}

// release gives the lease up, so that another process can claim the generation at once. If Redis does not answer soon,
// the lease expires.
func (b *Buffer[ID]) release(ctx context.Context, g claimed) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	_ = releaseScript.Run(ctx, b.rdb, []string{b.leaseKey(g.ID)}, g.token).Err()
}

// read takes what CUT and CLAIM return: a size, then the fields of the manifest.
func (g *claimed) read(reply []any) (err error) {
	if len(reply) == 0 {
		return errors.New("the script returned nothing")
	}
	size, ok := reply[0].(int64)
	if !ok {
		return fmt.Errorf("the script returned %v for a size", reply[0])
	}
	g.size = size
	for _, field := range reply[1:] {
		parent, _ := field.(string)
		if parent == "rolled" { // by an ADD, so there was no flusher
			g.origin = originCut
		}
		ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": parent})
		if span := trace.SpanContextFromContext(ctx); span.IsValid() { // the field `since` is not one
			g.producers = append(g.producers, span)
		}
	}
	return nil
}

// keepAlive extends the lease until the context ends or the lease is lost.
func (b *Buffer[ID]) keepAlive(ctx context.Context, g claimed) {
	beat := time.NewTicker(b.options.Lease / 3)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			kept, err := extendScript.Run(ctx, b.rdb, []string{b.leaseKey(g.ID)},
				g.token, b.options.Lease.Milliseconds()).Bool()
			if err == nil && !kept {
				trace.SpanFromContext(ctx).AddEvent("lease.lost") // the record in Postgres decides whose flush counts
				return
			}
		}
	}
}

const (
	// page is how many ids are read at a time. One SMEMBERS of 50,000 would block Redis for 9 ms.
	page = 5000
	// readings is how often a generation is read from its beginning before the flush fails.
	readings = 3
)

// ids reads a whole generation, in order. A cursor does not survive a restart of Redis: to continue with one found
// 37,546 of 50,000. So after any error it is read from its beginning, and it counts only if every id was seen.
func (b *Buffer[ID]) ids(ctx context.Context, g claimed) (ids []ID, err error) {
	for range readings {
		if ids, err = b.scan(ctx, g); err == nil || ctx.Err() != nil {
			return ids, err
		}
	}
	return nil, fmt.Errorf("read: %w", err)
}

func (b *Buffer[ID]) scan(ctx context.Context, g claimed) ([]ID, error) {
	seen := make(map[ID]struct{}, g.size)
	for cursor := uint64(0); ; {
		var members []string
		var err error
		if members, cursor, err = b.rdb.SScan(ctx, b.generationKey(g.ID), cursor, "", page).Result(); err != nil {
			return nil, err
		}
		for _, m := range members {
			id, err := parse[ID](m)
			if err != nil {
				return nil, fmt.Errorf("%s is no id: %w", strconv.Quote(m), err)
			}
			seen[id] = struct{}{}
		}
		if cursor == 0 {
			break
		}
	}
	if int64(len(seen)) != g.size {
		return nil, fmt.Errorf("%d of %d ids were found", len(seen), g.size)
	}
	ids := make([]ID, 0, len(seen))
	for id := range seen {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

// acknowledge removes a generation that Postgres has.
func (b *Buffer[ID]) acknowledge(ctx context.Context, g claimed) error {
	if ctx.Err() != nil { // the flush was cancelled after its commit
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
	}
	err := acknowledgeScript.Run(ctx, b.rdb, []string{
		b.generationKey(g.ID), b.manifestKey(g.ID), b.leaseKey(g.ID), b.keys.of("generations"), b.keys.of("held"),
	}, g.ID.String(), g.token).Err()
	if err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	b.options.reached(pointAcknowledged)
	return nil
}

// waiting lists the generations that are not acknowledged, oldest first.
func (b *Buffer[ID]) waiting(ctx context.Context) ([]uuid.UUID, error) {
	names, err := b.rdb.ZRange(ctx, b.keys.of("generations"), 0, -1).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("list generations: %w", err)
	}
	ids := make([]uuid.UUID, 0, len(names))
	for _, name := range names {
		id, err := uuid.Parse(name)
		if err != nil {
			return nil, fmt.Errorf("list generations: %w", err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}
