package cache_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

// truth is what loaders read: when they begin, and not when they end.
type truth struct {
	now   atomic.Int64
	loads atomic.Int64
	took  time.Duration
}

func (v *truth) load(context.Context, string) (int64, error) {
	value := v.now.Load()
	v.loads.Add(1)
	<-time.After(v.took) // the work takes this long
	return value, nil
}

func TestCache_Refresh(t *testing.T) {
	t.Run("never returns what was begun before the call", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			v := &truth{took: 2 * time.Millisecond}
			options := cache.Options[int64]{Load: v.load, LocalTTL: time.Hour}
			one, other := run(t, b.client(t), options), run(t, b.client(t), options)
			ctx, stop := context.WithCancel(t.Context())
			var asking sync.WaitGroup
			for i := range 20 {
				asking.Go(func() {
					for ctx.Err() == nil {
						_, _, _ = []*cache.Cache[int64]{one, other}[i%2].Get(ctx, "k")
						if i == 0 {
							_ = other.Delete(ctx, "k")
						}
						<-time.After(time.Millisecond) // requests of others come and go
					}
				})
			}
			const rounds = 400
			for range rounds {
				wanted := v.now.Add(1)
				got, info, err := one.Refresh(ctx, "k")
				require.NoError(t, err)
				require.GreaterOrEqual(t, got, wanted, info.Result)
			}
			stop()
			asking.Wait()
		})
	})

	t.Run("boards no flight of a Get", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			held := settings{Held: true, Lease: time.Minute}
			one, other := startProcess(t, b, held), startProcess(t, b, held)
			for _, p := range []*process{one, other} { // where the Get is, and elsewhere
				asked := one.ask(Ask{"k", 5})
				one.started()
				refreshed := make(chan Got, 1)
				go func() {
					var got Got
					_ = p.Try("Refresh", "k", &got)
					refreshed <- got
				}()
				p.waiters(map[bool]float64{true: 5, false: 1}[p == one])
				one.release(Load{Value: "before"})
				for _, got := range <-asked {
					require.Equal(t, "before", got.Value)
				}
				p.started()
				p.release(Load{Value: "after"})
				require.Equal(t, "after", (<-refreshed).Value)
				one.delete("k")
			}
		})
	})

	t.Run("calls at one time share at most two fills a replica", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			v := &truth{took: 50 * time.Millisecond}
			options := cache.Options[int64]{Load: v.load}
			caches := []*cache.Cache[int64]{run(t, b.client(t), options), run(t, b.client(t), options)}
			for round := range 10 {
				v.loads.Store(0)
				wanted := v.now.Add(1)
				start := make(chan struct{})
				var calling sync.WaitGroup
				for i := range 100 {
					calling.Go(func() {
						<-start
						got, info, err := caches[i%2].Refresh(t.Context(), "k")
						if err != nil || got < wanted {
							t.Errorf("%d %s %v, but %d is the truth", got, info.Result, err, wanted)
						}
					})
				}
				close(start)
				calling.Wait()
				require.LessOrEqual(t, v.loads.Load(), int64(2*len(caches)), fmt.Sprint("round ", round))
			}
		})
	})
}
