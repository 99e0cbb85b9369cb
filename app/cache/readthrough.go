package cache

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"
)

// ReadThrough is the usual cache: look, else compute and store with a TTL. Two callers may compute the same value, so
// when a hot key expires every request in flight does: the stampede that Cache prevents. It is kept for comparison. Of
// Options it uses Name, Namespace, Version, Load, Codec, TTL, Jitter and the providers.
type ReadThrough[V any] struct {
	rdb     redis.UniversalClient
	options Options[V]
	names   names
	tel     *instruments
}

// NewReadThrough returns an unprotected cache. It panics on options that cannot work.
func NewReadThrough[V any](rdb redis.UniversalClient, options Options[V]) *ReadThrough[V] {
	options = options.withDefaults()
	tel := newInstruments(options.Name, StrategyTTL, options.TracerProvider, options.MeterProvider)
	tel.observeTTL(options.TTL)
	return &ReadThrough[V]{rdb, options, newNames(options.Namespace, options.Name, options.Version), tel}
}

// Get returns the value of key and where it is from: a hit, a miss, or a bypass when Redis could not be reached. The
// error is the loader's, wrapped.
func (r *ReadThrough[V]) Get(ctx context.Context, key string) (V, Info, error) {
	ctx, span := r.tel.startGet(ctx)
	defer span.End()
	value, info, err := r.get(ctx, key)
	r.tel.answered(ctx, span, info, err)
	return value, info, err
}

func (r *ReadThrough[V]) get(ctx context.Context, key string) (V, Info, error) {
	b, unreachable := r.rdb.Get(ctx, r.key(key)).Bytes()
	found, unreachable := usable(ctx, r.tel, b, unreachable, r.options.Codec)
	if found != nil {
		return found.value, found.info(ResultHit, time.Now()), nil
	}
	begun := time.Now()
	filled, err := r.fill(ctx, key, begun)
	if err != nil {
		return filled.value, Info{Result: ResultError}, fmt.Errorf("cache %s: %w", r.options.Name, err)
	}
	if unreachable == nil {
		unreachable = r.store(ctx, key, filled)
	}
	if unreachable != nil {
		return filled.value, Info{Result: ResultBypass}, nil
	}
	return filled.value, filled.info(ResultMiss, time.Now()), nil
}

func (r *ReadThrough[V]) fill(ctx context.Context, key string, begun time.Time) (*entry[V], error) {
	ctx, span := r.tel.startFill(ctx)
	defer span.End()
	value, err := r.options.Load(ctx, key)
	took := time.Since(begun)
	if err != nil {
		r.tel.filled(ctx, causeMiss, "failed", took)
		recordError(span, err)
		return &entry[V]{}, fmt.Errorf("load: %w", err)
	}
	r.tel.filled(ctx, causeMiss, "committed", took)
	return &entry[V]{
		value:      value,
		createdAt:  begun,
		freshUntil: begun.Add(took + jittered(r.options.TTL, r.options.Jitter)),
		fillTime:   took,
		producer:   trace.SpanContextFromContext(ctx),
	}, nil
}

func (r *ReadThrough[V]) store(ctx context.Context, key string, e *entry[V]) error {
	encoded, err := e.encode(r.options.Codec)
	if err != nil {
		return err
	}
	return r.rdb.Set(ctx, r.key(key), encoded, time.Until(e.freshUntil)).Err()
}

// Delete forgets the value of key, in this version, until a fill that is already running stores it again.
func (r *ReadThrough[V]) Delete(ctx context.Context, key string) error {
	if err := r.rdb.Del(ctx, r.key(key)).Err(); err != nil {
		return fmt.Errorf("cache %s: delete: %w", r.options.Name, err)
	}
	r.tel.deleted(ctx)
	return nil
}

func (r *ReadThrough[V]) key(key string) string { return r.names.valueKey(key) + ":ttl" }
