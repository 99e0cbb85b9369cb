package cache

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

// What this process takes for Redis's time does not matter to Refresh.
func TestCache_Refresh_clock(t *testing.T) {
	for _, wrong := range []time.Duration{
		-time.Hour, -2 * time.Second, -time.Millisecond, time.Millisecond, 2 * time.Second, time.Hour,
	} {
		t.Run(fmt.Sprint("off by ", wrong), func(t *testing.T) {
			t.Parallel()
			rdb := redis.NewClient(servicetest.Redis(t).Options())
			t.Cleanup(func() { _ = rdb.Close() })
			var truth atomic.Int64
			load := func(context.Context, string) (int64, error) { return truth.Load(), nil }
			options := Options[int64]{Name: "test", Load: load}
			filler, other := New(rdb, options), New(rdb, options)
			for n := range int64(5) {
				truth.Store(2 * n)
				_, _, err := filler.Refresh(t.Context(), "k")
				require.NoError(t, err)
				other.clock.offset.Store(int64(wrong)) // as if it had been taught nothing but hits
				truth.Store(2*n + 1)
				value, info, err := other.Refresh(t.Context(), "k")
				require.NoError(t, err)
				require.Equal(t, 2*n+1, value, info.Result)
			}
		})
	}
}
