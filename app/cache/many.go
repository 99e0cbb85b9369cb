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
// missing are computed as by Get, concurrently. The answers are in the order of the keys.
func (c *Cache[V]) GetMany(ctx context.Context, keys ...string) []Answer[V] {
	ctx, span := c.tel.startGetMany(ctx, len(keys))
	defer span.End()
	answers := make([]Answer[V], len(keys))
	var others sync.WaitGroup
	for i, r := range c.readMany(ctx, keys) {
		answer := func() {
			ctx, span := c.tel.startGet(ctx)
			defer span.End()
			answers[i] = c.serve(ctx, keys[i], r.found, r.err)
			answers[i].Info.Local = r.local && answers[i].Info.Result == ResultHit
			c.tel.answered(ctx, span, answers[i].Info, answers[i].Err)
		}
		if r.found != nil && !c.clock.now().After(r.found.freshUntil) {
			answer() // a hit waits for nothing
		} else {
			others.Go(answer)
		}
	}
	others.Wait()
	return answers
}

// keyRead is what a read of one key found: nil where there is nothing usable.
type keyRead[V any] struct {
	found *entry[V]
	local bool // a copy
	err   error
}

// readMany reads all keys in one pipeline, which go-redis splits by node.
func (c *Cache[V]) readMany(ctx context.Context, keys []string) []keyRead[V] {
	reads := make([]keyRead[V], len(keys))
	var asked []int
	for i, key := range keys {
		found := c.local.fresh(key, c.clock.now())
		reads[i] = keyRead[V]{found: found, local: found != nil}
		if found == nil {
			asked = append(asked, i)
		}
	}
	if len(asked) == 0 {
		return reads
	}
	copies := make([]*localRead, len(asked))
	for n, i := range asked {
		copies[n] = c.local.begin(keys[i], c.covering(keys[i]))
		reads[i].err = ErrUnavailable // unless the breaker lets the call through
	}
	_ = c.breaker.do(ctx, func() error {
		replies := make([]*redis.StringCmd, len(asked))
		// The pipeline's own error is the first of its commands'; a missing value is one.
		_, _ = c.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for n, i := range asked {
				replies[n] = pipe.Get(ctx, c.names.valueKey(keys[i]))
			}
			return nil
		})
		var faults []error
		for n, i := range asked {
			b, err := replies[n].Bytes()
			reads[i].found, reads[i].err = usable(ctx, c.tel, b, err, c.codec)
			faults = append(faults, reads[i].err)
		}
		return errors.Join(faults...)
	})
	for n, i := range asked {
		c.local.end(keys[i], copies[n], reads[i].found, reads[i].err != nil)
	}
	return reads
}
