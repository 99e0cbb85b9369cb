package buffer

import (
	"cmp"
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
	all, errs := b.statsOf(ctx, []*Buffer[ID]{b})
	return all[0], errs[0]
}

// statsOf asks for several buffers at once: as many round-trips as Stats makes for one, on a Cluster to each node. Each
// buffer has an error of its own.
func (b *Buffers[ID]) statsOf(ctx context.Context, buffers []*Buffer[ID]) (all []Stats, errs []error) {
	open := make([]*redis.IntCmd, len(buffers))
	since := make([]*redis.StringCmd, len(buffers))
	generations := make([]*redis.ZSliceCmd, len(buffers))
	// Each command has its error.
	_, _ = b.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, of := range buffers {
			open[i] = pipe.SCard(ctx, of.keys.of("open"))
			since[i] = pipe.HGet(ctx, of.keys.of("open:manifest"), "since")
			generations[i] = pipe.ZRangeWithScores(ctx, of.keys.of("generations"), 0, -1)
		}
		return nil
	})
	all, errs = make([]Stats, len(buffers)), make([]error, len(buffers))
	sizes := make([][]*redis.IntCmd, len(buffers))
	waiting := 0
	for i, of := range buffers {
		none := since[i].Err()
		if errors.Is(none, redis.Nil) { // nothing is open
			none = nil
		}
		if err := cmp.Or(open[i].Err(), none, generations[i].Err()); err != nil {
			errs[i] = fmt.Errorf("buffer %s: stats: %w", of.keys.member, err)
			continue
		}
		s := &all[i]
		*s = Stats{Open: open[i].Val(), Depth: open[i].Val(), Generations: len(generations[i].Val())}
		if micros, err := since[i].Int64(); err == nil {
			s.openAge = max(0, time.Since(time.UnixMicro(micros)))
			s.OldestAge = s.openAge
		}
		if s.Generations > 0 {
			s.OldestAge = max(0, time.Since(time.UnixMicro(int64(generations[i].Val()[0].Score))))
		}
		waiting += s.Generations
	}
	if waiting == 0 {
		return all, errs
	}
	_, _ = b.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, of := range buffers {
			for _, g := range generations[i].Val() {
				sizes[i] = append(sizes[i], pipe.SCard(ctx, of.keys.of("gen:"+g.Member.(string))))
			}
		}
		return nil
	})
	for i, of := range buffers {
		for _, size := range sizes[i] {
			all[i].Depth += size.Val()
			if err := size.Err(); err != nil {
				errs[i] = fmt.Errorf("buffer %s: stats: %w", of.keys.member, err)
			}
		}
	}
	return all, errs
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
