package cache_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest"
)

func TestManyKeysTakeOneRoundTripANode(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		rdb := settings{Redis: b.addresses(), Cluster: b.cluster != nil}.client()
		t.Cleanup(func() { _ = rdb.Close() })
		var trips roundTrips
		if nodes, ok := rdb.(*redis.ClusterClient); ok {
			nodes.OnNewNode(func(node *redis.Client) { node.AddHook(&trips) })
		} else {
			rdb.AddHook(&trips)
		}
		var loads atomic.Int64
		c := cache.New(rdb, cache.Options[string]{Name: "test", Load: func(_ context.Context, key string) (string, error) {
			loads.Add(1)
			return "value of " + key, nil
		}})
		var keys []string
		owners := map[*servicetest.RedisServer]bool{}
		for i := range 30 {
			keys = append(keys, fmt.Sprint("k", i))
			owners[b.owner(t, keys[i])] = true
		}
		require.Len(t, owners, len(b.nodes), "all nodes are touched")

		check := func(wanted cache.Result) {
			answers := c.GetMany(t.Context(), keys...)
			require.Len(t, answers, len(keys))
			for i, a := range answers {
				require.NoError(t, a.Err)
				require.Equal(t, "value of "+keys[i], a.Value)
				require.Equal(t, wanted, a.Info.Result)
			}
		}
		check(cache.ResultMiss)
		require.EqualValues(t, len(keys), loads.Load())
		trips.n.Store(0)
		check(cache.ResultHit)
		require.EqualValues(t, len(b.nodes), trips.n.Load())
	})
}

// roundTrips counts the commands and pipelines that reach a node.
type roundTrips struct{ n atomic.Int64 }

func (r *roundTrips) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *roundTrips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		r.n.Add(1)
		return next(ctx, cmd)
	}
}

func (r *roundTrips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		r.n.Add(1)
		return next(ctx, cmds)
	}
}
