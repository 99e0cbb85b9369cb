package buffer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Stats is what a buffer holds.
type Stats struct {
	// Open counts the ids that no flush has begun with, Depth all that are not acknowledged.
	Open, Depth int64
	// Generations counts those that are not acknowledged.
	Generations int
	// OldestAge is how long ago the oldest id was added, by this process's clock; zero when there are no ids.
	OldestAge time.Duration
	// openAge is the same of what is open.
	openAge time.Duration
}

// Stats asks Redis what the buffer holds: one round-trip, and a second one when there are generations.
func (b *Buffer[ID]) Stats(ctx context.Context) (Stats, error) {
	s, err := b.stats(ctx)
	if err != nil {
		return Stats{}, fmt.Errorf("buffer %s: stats: %w", b.keys.member, err)
	}
	return s, nil
}

func (b *Buffer[ID]) stats(ctx context.Context) (Stats, error) {
	var open *redis.IntCmd
	var since *redis.StringCmd
	var generations *redis.ZSliceCmd
	_, err := b.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		open = pipe.SCard(ctx, b.keys.of("open"))
		since = pipe.HGet(ctx, b.keys.of("open:manifest"), "since")
		generations = pipe.ZRangeWithScores(ctx, b.keys.of("generations"), 0, -1)
		return nil
	})
	if errors.Is(err, redis.Nil) { // nothing is open; the last reply may still be an error
		err = generations.Err()
	}
	if err != nil {
		return Stats{}, err
	}
	s := Stats{Open: open.Val(), Depth: open.Val(), Generations: len(generations.Val())}
	if micros, err := since.Int64(); err == nil {
		s.openAge = max(0, time.Since(time.UnixMicro(micros)))
		s.OldestAge = s.openAge
	}
	if s.Generations == 0 {
		return s, nil
	}
	s.OldestAge = max(0, time.Since(time.UnixMicro(int64(generations.Val()[0].Score))))
	sizes, err := b.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, g := range generations.Val() {
			pipe.SCard(ctx, b.keys.of("gen:"+g.Member.(string)))
		}
		return nil
	})
	for _, size := range sizes {
		s.Depth += size.(*redis.IntCmd).Val()
	}
	return s, err
}

// seen is what Run saw last of a buffer.
type seen struct {
	Stats
	name, label string
	legacy      bool
}

func (b *Buffer[ID]) saw(s Stats) { b.known.Store(b.keys.prefix, seen{s, b.name, b.label, b.legacy}) }

// unsee forgets the buffers of one kind that Run has not looked at, by the prefix of their keys.
func (b *Buffers[ID]) unsee(legacy bool, looked map[string]bool) {
	b.known.Range(func(prefix, last any) bool {
		if last.(seen).legacy == legacy && !looked[prefix.(string)] {
			b.known.Delete(prefix)
		}
		return true
	})
}

// lastSeen is what Run saw last of each label: the sums of its buffers, and the oldest age of all.
func (b *Buffers[ID]) lastSeen() map[string]Stats {
	sums := map[string]Stats{}
	b.known.Range(func(_, last any) bool {
		s := last.(seen)
		sum := sums[s.label]
		sum.Open += s.Open
		sum.Depth += s.Depth
		sum.Generations += s.Generations
		sum.OldestAge = max(sum.OldestAge, s.OldestAge)
		sums[s.label] = sum
		return true
	})
	return sums
}
