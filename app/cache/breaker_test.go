package cache_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest"
)

func TestTheBreakerOpensAfterFiveFailuresAndClosesAgain(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	p := startProcess(t, b, settings{RedisTimeout: redisTimeout})
	state := func() int { return int(p.Metric(cache.MetricBreaker, "cache")["test"]) }
	const closed, open = 0, 2
	require.NoError(t, b.nodes[0].Pause())
	// Each request fails twice: its GET, and its LEASE.
	for range 2 {
		require.Equal(t, cache.ResultBypass, p.get("k").Result)
	}
	require.Equal(t, closed, state())
	require.Equal(t, cache.ResultBypass, p.get("k").Result)
	require.Equal(t, open, state())
	require.NoError(t, b.nodes[0].Resume())
	eventually(t, func() bool { return p.get("k").Result == cache.ResultHit })
	require.Equal(t, closed, state())
}

func TestImpatientCallersDoNotOpenTheBreaker(t *testing.T) {
	t.Parallel()
	c := newReplica(t, servicetest.Redis(t), cache.Options[string]{
		Load: func(context.Context, string) (string, error) { return "v", nil },
	})
	late, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	for range 10 {
		_, _, err := c.Get(late, "k")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	_, info, err := c.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, cache.ResultMiss, info.Result)
}

func TestWithoutRedisFewFillsRunAtATime(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	p := startProcess(t, b, settings{Bulkhead: 3, LoadTime: 50 * time.Millisecond})
	require.NoError(t, b.nodes[0].Kill())
	var answers []<-chan []Got
	const keys = 20
	for i := range keys {
		answers = append(answers, p.ask(Ask{fmt.Sprint("k", i), 10}))
	}
	for _, a := range answers {
		for _, got := range <-a {
			require.Equal(t, cache.ResultBypass, got.Result, got.Err)
		}
	}
	require.Equal(t, 3, mostAtATime(p.fills()))
}

// mostAtATime is how many fills overlapped at the worst moment.
func mostAtATime(fills []Fill) (most int) {
	type turn struct {
		at    int64
		delta int
	}
	var turns []turn
	for _, f := range fills {
		turns = append(turns, turn{f.Began, 1}, turn{f.Ended, -1})
	}
	slices.SortFunc(turns, func(a, b turn) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.delta, b.delta)) })
	now := 0
	for _, turn := range turns {
		now += turn.delta
		most = max(most, now)
	}
	return most
}
