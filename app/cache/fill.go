package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

type fillResult[V any] struct {
	entry     *entry[V]
	committed bool
	overtaken bool // refused for something newer, as opposed to an error
}

// fill runs the loader under the lease and commits what it returns.
func (c *Cache[V]) fill(ctx context.Context, key string, l lease, why cause) (fillResult[V], error) {
	ctx, span := c.tel.startFill(ctx)
	defer span.End()
	deadline, cancel := context.WithTimeout(ctx, c.options.LoadTimeout)
	defer cancel()
	go c.keepAlive(deadline, key, l)

	value, err := c.load(deadline, key)
	took := time.Since(l.granted)
	cancel()
	filled := &entry[V]{
		value:     value,
		absent:    errors.Is(err, ErrNotFound),
		createdAt: l.grantedAt,
		fillTime:  took,
		token:     l.token,
		producer:  span.SpanContext(),
	}
	ttl, staleFor := c.options.TTL, c.options.StaleFor
	if filled.absent {
		ttl, staleFor, err = c.options.NegativeTTL, 0, nil
	}
	filled.freshUntil = l.grantedAt.Add(took + jittered(ttl, c.options.Jitter))

	var encoded []byte
	if err == nil {
		encoded, err = filled.encode(c.codec)
	}
	if err == nil && len(encoded) > c.options.MaxValueSize {
		c.tel.refused(ctx, refusedTooLarge)
		err = fmt.Errorf("%w: %d bytes, and %d are allowed", ErrValueTooLarge, len(encoded), c.options.MaxValueSize)
	}
	if err != nil {
		c.tel.filled(ctx, why, "failed", took)
		recordError(span, err)
		return fillResult[V]{}, errors.Join(err, c.giveUp(ctx, key, l))
	}
	// Not cancelled by Shutdown: a commit that is not sent leaves the lease behind. The client's time-outs bound it.
	committed, err := c.commit(context.WithoutCancel(ctx), key, l, encoded, filled.freshUntil.Sub(l.grantedAt)+staleFor)
	if !committed {
		// A value that could not be stored is still a value for the requests that wait for this flight.
		c.tel.filled(ctx, why, "lost", took)
		recordError(span, err)
		return fillResult[V]{entry: filled, overtaken: err == nil}, nil
	}
	c.tel.filled(ctx, why, "committed", took)
	return fillResult[V]{entry: filled, committed: true}, nil
}

// giveUp ends the lease of a fill that failed: with a cooldown, or, if Shutdown has cancelled the fill, without.
func (c *Cache[V]) giveUp(ctx context.Context, key string, l lease) error {
	if c.life.Err() == nil {
		return c.cool(ctx, key, l)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	return c.release(ctx, key, l)
}

// load runs the loader and returns at the latest when the context ends: it does not wait for a loader that ignores its
// deadline, which would hold the lease. A panic is an error like any other.
func (c *Cache[V]) load(ctx context.Context, key string) (V, error) {
	type loaded struct {
		value V
		err   error
	}
	done := make(chan loaded, 1)
	go func() {
		var l loaded
		defer func() {
			if p := recover(); p != nil {
				l.err = fmt.Errorf("load panicked: %v\n%s", p, debug.Stack())
			}
			done <- l
		}()
		l.value, l.err = c.options.Load(ctx, key)
	}()
	select {
	case l := <-done:
		if l.err != nil {
			return l.value, fmt.Errorf("load: %w", l.err)
		}
		return l.value, nil
	case <-ctx.Done():
		return *new(V), fmt.Errorf("load: %w", context.Cause(ctx))
	}
}
