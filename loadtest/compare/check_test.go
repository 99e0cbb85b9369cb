package compare_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/ulule/limiter/v3"
	limiterstore "github.com/ulule/limiter/v3/drivers/store/redis"
	"golang.org/x/sync/errgroup"

	"nervous/app/ratelimit"
	"nervous/app/servicetest"
)

// limit is how many requests a minute each of them is told to admit.
const limit = 100

type check func(ctx context.Context, caller string) (allowed bool, err error)

// The first is the reference: redis_rate is GCRA in one script a check.
var limiters = []struct {
	name string
	open func(b *testing.B, rdb *redis.Client) check
}{
	{"redis_rate", func(_ *testing.B, rdb *redis.Client) check {
		l := redis_rate.NewLimiter(rdb)
		return func(ctx context.Context, caller string) (bool, error) {
			result, err := l.Allow(ctx, caller, redis_rate.PerMinute(limit))
			return err == nil && result.Allowed > 0, err
		}
	}},
	{"ulule_limiter", func(b *testing.B, rdb *redis.Client) check {
		store, err := limiterstore.NewStore(rdb)
		require.NoError(b, err)
		l := limiter.New(store, limiter.Rate{Period: time.Minute, Limit: limit})
		return func(ctx context.Context, caller string) (bool, error) {
			result, err := l.Get(ctx, caller)
			return !result.Reached, err
		}
	}},
	{"nervous", nervous(ratelimit.Exact)},
	{"nervous_fixed_window", nervous(ratelimit.FixedWindow)},
}

func nervous(by ratelimit.Strategy) func(*testing.B, *redis.Client) check {
	return func(b *testing.B, rdb *redis.Client) check {
		l := ratelimit.New(rdb, ratelimit.Options{Replica: "one", Budget: time.Second})
		policy, err := l.Policy(ratelimit.Policy{Name: "overall", Limit: limit, Window: time.Minute, Strategy: by})
		require.NoError(b, err)
		return func(ctx context.Context, caller string) (bool, error) {
			d, err := l.Check(ctx, caller, 1, policy)
			if d.Degraded {
				return false, errors.New("Redis was not asked")
			}
			return d.Allowed, err
		}
	}
}

// What it costs to admit a request, as a multiple of redis_rate's check. Each caller spends its whole limit, so a log
// is of every length in turn.
func BenchmarkAdmit(b *testing.B) {
	rdb := connect(b, servicetest.Redis(b))
	reference := limiters[0].open(b, rdb)
	for _, l := range limiters {
		b.Run(l.name, func(b *testing.B) {
			require.NoError(b, rdb.FlushAll(b.Context()).Err())
			together(b, admitted(reference), admitted(l.open(b, rdb)), func(way string, batch int) string {
				return fmt.Sprint(way, batch/(limit/batchEach))
			})
		})
	}
}

// What it costs to deny one who goes on and on, as a multiple of redis_rate's check.
func BenchmarkDeny(b *testing.B) {
	rdb := connect(b, servicetest.Redis(b))
	reference := limiters[0].open(b, rdb)
	for _, l := range limiters {
		b.Run(l.name, func(b *testing.B) {
			require.NoError(b, rdb.FlushAll(b.Context()).Err())
			ask := l.open(b, rdb)
			for range 2 * limit {
				for caller := range callers {
					_, err := reference(b.Context(), fmt.Sprint("reference ", caller))
					require.NoError(b, err)
					_, err = ask(b.Context(), fmt.Sprint("way ", caller))
					require.NoError(b, err)
				}
			}
			// One or the other is admitted all the same where units come back one by one.
			together(b, reference, ask, func(way string, _ int) string { return way })
		})
	}
}

const (
	// callers ask at the same time, as those of a service do. One alone would mostly measure how long this machine takes
	// to wake a thread that waits for an answer.
	callers = 8
	// batchEach is how often each of them asks until it is the other limiter's turn.
	batchEach = 20
)

// together times batches of one way in turn with batches of a reference, and reports a check's median time and the
// ratio of the medians. The name of a batch begins those of its callers.
func together(b *testing.B, reference, way check, name func(way string, batch int) string) {
	b.Helper()
	batch := func(ask check, name string) time.Duration {
		begun := time.Now()
		var group errgroup.Group
		for caller := range callers {
			group.Go(func() error {
				for range batchEach {
					if _, err := ask(b.Context(), fmt.Sprint(name, " ", caller)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		require.NoError(b, group.Wait())
		return time.Since(begun) / (callers * batchEach)
	}
	var ways, references []time.Duration
	for n := 0; b.Loop(); n++ {
		references = append(references, batch(reference, name("reference", n)))
		ways = append(ways, batch(way, name("way", n)))
	}
	b.ReportMetric(float64(median(ways)), "ns/check")
	b.ReportMetric(float64(median(ways))/float64(median(references)), "x_redis_rate")
	b.ReportMetric(0, "ns/op") // of a pair of batches, which is nobody's business
}

// admitted fails where a caller is denied what it may do.
func admitted(ask check) check {
	return func(ctx context.Context, caller string) (bool, error) {
		allowed, err := ask(ctx, caller)
		if err == nil && !allowed {
			return false, fmt.Errorf("%q was denied", caller)
		}
		return allowed, err
	}
}
