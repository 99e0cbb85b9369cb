package cache

import (
	"context"
	"errors"
	"maps"
	"slices"
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
	byNode := map[string][]int{}
	for _, i := range asked {
		node := c.breaker.node(ctx, c.names.valueKey(keys[i]))
		byNode[node] = append(byNode[node], i)
	}
	c.readNodes(ctx, keys, reads, slices.Collect(maps.Keys(byNode)), byNode, nil)
	for n, i := range asked {
		c.local.end(keys[i], copies[n], reads[i].found, reads[i].err != nil)
	}
	return reads
}

// readNodes asks for the breaker's leave to call each node, one inside the other, and then reads from those that may be
// called in one pipeline.
func (c *Cache[V]) readNodes(
	ctx context.Context, keys []string, reads []keyRead[V], nodes []string, byNode map[string][]int, allowed []int,
) {
	if len(nodes) == 0 {
		c.readPipelined(ctx, keys, reads, allowed)
		return
	}
	node, called := nodes[0], false
	_ = c.breaker.at(ctx, node, func() error {
		called = true
		c.readNodes(ctx, keys, reads, nodes[1:], byNode, append(allowed, byNode[node]...))
		var faults []error
		for _, i := range byNode[node] {
			faults = append(faults, reads[i].err)
		}
		return errors.Join(faults...)
	})
	if !called {
		c.readNodes(ctx, keys, reads, nodes[1:], byNode, allowed)
	}
}

func (c *Cache[V]) readPipelined(ctx context.Context, keys []string, reads []keyRead[V], asked []int) {
	if len(asked) == 0 {
		return
	}
	replies := make([]*redis.StringCmd, len(asked))
	// The pipeline's own error is the first of its commands'; a missing value is one.
	_, _ = c.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for n, i := range asked {
			replies[n] = pipe.Get(ctx, c.names.valueKey(keys[i]))
		}
		return nil
	})
	for n, i := range asked {
		b, err := replies[n].Bytes()
		reads[i].found, reads[i].err = usable(ctx, c.tel, b, err, c.codec)
	}
}
