package cache

import (
	"context"
	"errors"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Answer is what Get returns, as one value.
type Answer[V any] struct {
	Value V
	Info  Info
	Err   error
}

// GetMany is Get for several keys at once: their values are read in one round-trip a Redis node, and those that are
// missing are come by as Get does, side by side. The answers are in the order of the keys.
func (c *Cache[V]) GetMany(ctx context.Context, keys ...string) []Answer[V] {
	ctx, span := c.tel.startGetMany(ctx, len(keys))
	defer span.End()
	answers := make([]Answer[V], len(keys))
	found, err := c.readMany(ctx, keys)
	var missing sync.WaitGroup
	for i, key := range keys {
		missing.Go(func() {
			ctx, span := c.tel.startGet(ctx)
			defer span.End()
			fault := err
			if found[i] != nil {
				fault = nil // another node's
			}
			answers[i] = c.serve(ctx, key, found[i], fault)
			c.tel.answered(ctx, span, answers[i].Info, answers[i].Err)
		})
	}
	missing.Wait()
	return answers
}

// readMany reads all keys in one pipeline, which go-redis splits by node; nil where there is nothing that can be used.
func (c *Cache[V]) readMany(ctx context.Context, keys []string) ([]*entry[V], error) {
	found := make([]*entry[V], len(keys))
	epoch := c.local.now()
	var asked []int
	for i, key := range keys {
		if found[i] = c.local.fresh(key, c.clock.now()); found[i] == nil {
			asked = append(asked, i)
		}
	}
	if len(asked) == 0 {
		return found, nil
	}
	err := c.breaker.do(ctx, func() error {
		replies := make([]*redis.StringCmd, len(asked))
		// The pipeline's own error is the first of its commands'; a missing value is one.
		_, _ = c.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for n, i := range asked {
				replies[n] = pipe.Get(ctx, c.valueKey(keys[i]))
			}
			return nil
		})
		var faults []error
		for n, i := range asked {
			b, err := replies[n].Bytes()
			found[i], err = usable(ctx, c.tel, b, err, c.codec)
			if err != nil {
				faults = append(faults, err)
			}
		}
		return errors.Join(faults...)
	})
	for _, i := range asked {
		c.local.keep(keys[i], found[i], epoch)
	}
	return found, err
}
