package cache_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

// panicOf returns what New says to these options.
func panicOf(options cache.Options[string]) (said any) {
	defer func() { said = recover() }()
	cache.New(redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}), options)
	return nil
}

func TestNew_options(t *testing.T) {
	t.Parallel()
	durations := map[string]func(*cache.Options[string], time.Duration){
		"TTL":         func(o *cache.Options[string], d time.Duration) { o.TTL = d },
		"StaleFor":    func(o *cache.Options[string], d time.Duration) { o.StaleFor = d },
		"Lease":       func(o *cache.Options[string], d time.Duration) { o.Lease = d },
		"LoadTimeout": func(o *cache.Options[string], d time.Duration) { o.LoadTimeout = d },
		"NegativeTTL": func(o *cache.Options[string], d time.Duration) { o.NegativeTTL = d },
		"LocalTTL":    func(o *cache.Options[string], d time.Duration) { o.LocalTTL = d },
		"Cooldown":    func(o *cache.Options[string], d time.Duration) { o.Cooldown = d },
		"SoftTimeout": func(o *cache.Options[string], d time.Duration) { o.SoftTimeout = d },
	}
	for name, set := range durations {
		for _, d := range []time.Duration{1, time.Millisecond - 1, -1, -time.Hour, math.MinInt64, math.MaxInt64} {
			if name == "SoftTimeout" && (d < 0 || d == math.MaxInt64) {
				continue // no wait, and any wait
			}
			t.Run(name+" "+d.String(), func(t *testing.T) {
				t.Parallel()
				o := cache.Options[string]{Name: "n", Load: returns("v")}
				set(&o, d)
				said := panicOf(o)
				require.Contains(t, said, name+" is "+d.String())
				require.Contains(t, said, `"n"`)
			})
		}
		t.Run(name+" at its limits", func(t *testing.T) {
			t.Parallel()
			for _, d := range []time.Duration{0, time.Millisecond, 10 * 365 * 24 * time.Hour} {
				o := cache.Options[string]{Name: "n", Load: returns("v")}
				set(&o, d)
				require.Nil(t, panicOf(o), d)
			}
		})
	}
	for text, change := range map[string]func(*cache.Options[string]){
		"Name is empty":         func(o *cache.Options[string]) { o.Name = "" },
		"Load is nil":           func(o *cache.Options[string]) { o.Load = nil },
		"Jitter is 1 ":          func(o *cache.Options[string]) { o.Jitter = 1 },
		"Jitter is -0.1 ":       func(o *cache.Options[string]) { o.Jitter = -0.1 },
		"Jitter is NaN ":        func(o *cache.Options[string]) { o.Jitter = math.NaN() },
		"MaxValueSize is -1 ":   func(o *cache.Options[string]) { o.MaxValueSize = -1 },
		"LocalSize is -1 ":      func(o *cache.Options[string]) { o.LocalSize = -1 },
		"Bulkhead is -1 ":       func(o *cache.Options[string]) { o.Bulkhead = -1 },
		"TTL is -1s and must":   func(o *cache.Options[string]) { o.TTL, o.Lease = -time.Second, 1 },
		"Lease is 1ns and must": func(o *cache.Options[string]) { o.TTL, o.Lease = -time.Second, 1 },
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			o := cache.Options[string]{Name: "n", Load: returns("v")}
			change(&o)
			require.Contains(t, panicOf(o), text)
		})
	}
}

// The longest times that New accepts work as such, and do not wrap around.
func TestNew_longestOptions(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	const long = 10 * 365 * 24 * time.Hour
	o := cache.Options[string]{
		TTL: long, StaleFor: long, Lease: long, LoadTimeout: long, NegativeTTL: long, LocalTTL: long, Cooldown: long,
		Load: returns("v"),
	}
	c := run(t, b.client(t), o)
	requireGet(t, c, "k", "v", cache.ResultMiss)
	for range 3 {
		requireGet(t, c, "k", "v", cache.ResultHit)
	}
	require.Greater(t, b.at(t, "k").PTTL(t.Context(), c.ValueKey("k")).Val(), long)
	require.NoError(t, c.Delete(t.Context(), "k"))
	requireGet(t, c, "k", "v", cache.ResultMiss)
}

// The defaults, by what they do.
func TestNew_defaults(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	rdb := b.client(t)
	began, release := make(chan struct{}, 10), make(chan error)
	c := cache.New(rdb, cache.Options[string]{Name: "test", Load: func(ctx context.Context, _ string) (string, error) {
		deadline, _ := ctx.Deadline()
		require.InDelta(t, 30, time.Until(deadline).Seconds(), 1)
		began <- struct{}{}
		return "v", <-release
	}})
	node := b.at(t, "k")
	seconds := func(key string) float64 { return node.PTTL(t.Context(), key).Val().Seconds() }
	first := get(t.Context(), inProcess{Cache: c}, "k")
	<-began
	require.Equal(t, "default:cache:test:", c.ValueKey("k")[:len("default:cache:test:")])
	require.InDelta(t, 3, seconds(cache.LeaseKey("k")), 1)
	release <- nil
	require.InDelta(t, 600, (<-first).info.TTL.Seconds(), 1)
	require.InDelta(t, 600, seconds(c.ValueKey("k")), 2, "no time to be stale")

	absent := get(t.Context(), inProcess{Cache: c}, "absent")
	<-began
	release <- cache.ErrNotFound
	require.ErrorIs(t, (<-absent).err, cache.ErrNotFound)
	_, info, err := c.Get(t.Context(), "absent")
	require.ErrorIs(t, err, cache.ErrNotFound)
	require.InDelta(t, 10, info.TTL.Seconds(), 1)
	require.False(t, info.Local)

	broken := get(t.Context(), inProcess{Cache: c}, "broken")
	<-began
	release <- context.Canceled
	require.Error(t, (<-broken).err)
	require.InDelta(t, 1, seconds(cache.LeaseKey("broken")), 0.9)
}
