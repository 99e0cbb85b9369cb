package ratelimit_test

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/ratelimit"
	"nervous/app/servicetest"
)

// replicated is a Redis whose master can be lost.
type replicated struct {
	client   redis.UniversalClient
	failOver func(context.Context) error
}

var replicatedBackends = map[string]func(*testing.T) replicated{
	"sentinel": func(t *testing.T) replicated {
		sentinel := servicetest.RedisSentinel(t)
		o := sentinel.Options()
		o.OnConnect = ratelimit.LoadScripts
		return replicated{redis.NewFailoverClient(o), sentinel.FailOver}
	},
	"cluster": func(t *testing.T) replicated {
		cluster := servicetest.RedisClusterWithReplicas(t)
		o := cluster.Options()
		o.OnConnect = ratelimit.LoadScripts
		return replicated{redis.NewClusterClient(o), func(ctx context.Context) error {
			master, err := cluster.Owner(ctx, ratelimit.Key(caller, overall))
			if err != nil {
				return err
			}
			return cluster.FailOver(ctx, master)
		}}
	},
}

// Replication is asynchronous, so a failover may forget what was spent last: at most one limit a caller is admitted
// once more. While no master answers the fallback decides, and afterwards Redis does without a restart.
func TestLimiter_Check_FailoverAdmitsAtMostOneLimitMore(t *testing.T) {
	t.Parallel()
	for name, start := range replicatedBackends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t)
			t.Cleanup(func() { _ = r.client.Close() })
			l := ratelimit.New(r.client, ratelimit.Options{Replica: "one", Budget: budget})
			runUntilTheEnd(t, l)
			closed := overall
			closed.Fallback = ratelimit.Closed
			eventually(t, func() bool { return !check(t, l, "the first", 1, overall).Degraded })
			admitted := int64(0)
			spendAll := func() {
				for range 3 * closed.Limit {
					if check(t, l, caller, 1, closed).Allowed {
						admitted++
					}
				}
			}
			spendAll()
			require.Positive(t, admitted)
			require.NoError(t, r.failOver(t.Context()))
			eventually(t, func() bool { // the caller's master answers
				d := check(t, l, caller, 2, closed) // another cost, so that no denial is remembered
				if d.Allowed {
					admitted += 2
				}
				return !d.Degraded
			})
			spendAll()
			require.False(t, check(t, l, caller, 1, closed).Allowed)
			require.False(t, check(t, l, caller, 1, closed).Degraded)
			require.LessOrEqual(t, admitted, 2*closed.Limit)
		})
	}
}
