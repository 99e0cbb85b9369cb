package ratelimit_test

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/ratelimit"
)

// What callers cost Redis who have spent a limit of 100, and that it is gone when it no longer counts.
func TestWhatCallersCostRedis(t *testing.T) {
	t.Parallel()
	const callers, limit, bound = 10_000, 100, 1_600
	p := ratelimit.Policy{Name: "overall", Limit: limit, Window: 4 * time.Hour, Strategy: ratelimit.Exact}
	b := oneRedis(t)
	l, rdb := b.limiter(t, ratelimit.Options{Memory: 1}), connect(t, b.nodes[0])
	used := func() int64 {
		memory, err := rdb.InfoMap(t.Context(), "memory").Result()
		require.NoError(t, err)
		bytes, err := strconv.ParseInt(memory["Memory"]["used_memory"], 10, 64)
		require.NoError(t, err)
		return bytes
	}
	spend(t, l, "the first", 1, p)
	compiled := compile(t, l, p)[0]
	before := used()
	var spenders sync.WaitGroup
	for worker := range 8 {
		spenders.Go(func() {
			for i := worker; i < callers; i += 8 {
				// All at once here: how many bytes a unit takes does not depend on when it was spent.
				d, err := l.Check(t.Context(), fmt.Sprint("user:", i), limit, compiled)
				if err != nil || !d.Allowed {
					t.Errorf("%+v, %v", d, err)
				}
			}
		})
	}
	spenders.Wait()
	each := (used() - before) / callers
	t.Logf("%d callers with %d units each: %d bytes a caller", callers, limit, each)
	require.Less(t, each, int64(bound))
	for i := range callers {
		ttl, err := rdb.PTTL(t.Context(), ratelimit.Key(fmt.Sprint("user:", i), p)).Result()
		require.NoError(t, err)
		require.Positive(t, ttl)
		require.LessOrEqual(t, ttl, p.Window+time.Second)
	}
}

func TestWhatIsSpentIsGoneWhenItNoLongerCounts(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := b.limiter(t, ratelimit.Options{})
		brief := ratelimit.Policy{Name: "overall", Limit: 3, Window: 10 * time.Millisecond}
		alike := brief
		alike.Strategy = ratelimit.FixedWindow
		for i := range 50 {
			check(t, l, fmt.Sprint(i), 1, brief)
			check(t, l, fmt.Sprint(i), 1, alike)
		}
		require.NotEmpty(t, b.keys(t))
		eventually(t, func() bool { return len(b.keys(t)) == 0 })
	})
}
