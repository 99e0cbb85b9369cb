package ratelimit_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"nervous/app/ratelimit"
	"nervous/app/servicetest"
)

// budget is what a service would give Redis; soon is what even a busy machine needs to notice, and less than any
// time-out of the client's.
const (
	budget = 50 * time.Millisecond
	soon   = 5 * time.Second
)

// The faults, and how each ends.
var faults = map[string]struct {
	begin, end func(*testing.T, *servicetest.RedisServer, *servicetest.Proxy)
}{
	"killed": {
		func(t *testing.T, s *servicetest.RedisServer, _ *servicetest.Proxy) { require.NoError(t, s.Kill()) },
		func(t *testing.T, s *servicetest.RedisServer, _ *servicetest.Proxy) {
			require.NoError(t, s.Restart(t.Context()))
		},
	},
	"hung": {
		func(t *testing.T, s *servicetest.RedisServer, _ *servicetest.Proxy) { require.NoError(t, s.Pause()) },
		func(t *testing.T, s *servicetest.RedisServer, _ *servicetest.Proxy) { require.NoError(t, s.Resume()) },
	},
	"slow": {
		func(_ *testing.T, _ *servicetest.RedisServer, p *servicetest.Proxy) { p.Delay(10 * time.Second) },
		func(_ *testing.T, _ *servicetest.RedisServer, p *servicetest.Proxy) { p.Delay(0); p.Cut() },
	},
	"full": {
		func(t *testing.T, s *servicetest.RedisServer, _ *servicetest.Proxy) {
			require.NoError(t, connect(t, s).ConfigSet(t.Context(), "maxmemory", "1").Err())
		},
		func(t *testing.T, s *servicetest.RedisServer, _ *servicetest.Proxy) {
			require.NoError(t, connect(t, s).ConfigSet(t.Context(), "maxmemory", "0").Err())
		},
	},
}

// Whatever befalls Redis, a check has its answer soon, says that it is degraded, and recovers by itself.
func TestWhateverBefallsRedis(t *testing.T) {
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			onEachBackend(t, func(t *testing.T, b backend) {
				n, proxies := b.proxies(t)
				l := n.limiter(t, ratelimit.Options{Budget: budget})
				node, _ := b.keeper(t)
				eventually(t, func() bool { // it is connected
					d := check(t, l, caller, 1, overall)
					reset(t, l, caller, overall)
					return !d.Degraded
				})
				fault.begin(t, node, proxies[node])
				for i := range overall.Limit {
					began := time.Now()
					d := check(t, l, caller, 1, overall, runs)
					require.Less(t, time.Since(began), soon)
					require.True(t, d.Degraded)
					require.Equal(t, ratelimit.FromFallback, d.Source)
					require.Equal(t, i < runs.Limit, d.Allowed, "this is the only replica that it knows of")
				}
				fault.end(t, node, proxies[node])
				b.ready(t)
				eventually(t, func() bool { return !check(t, l, "user:43", 1, overall).Degraded })
			})
		})
	}
}

func TestEachPolicyHasItsOwnFallback(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	l := b.limiter(t, ratelimit.Options{})
	require.NoError(t, b.nodes[0].Kill())
	open, closed := overall, overall
	open.Fallback, closed.Fallback = ratelimit.Open, ratelimit.Closed
	for range 3 * overall.Limit {
		d := check(t, l, caller, 1, open)
		require.True(t, d.Allowed)
		require.True(t, d.Degraded)
		d = check(t, l, caller, 1, overall, closed)
		require.False(t, d.Allowed)
		require.True(t, d.Degraded)
		require.Equal(t, ratelimit.BreakerRest, d.Wait())
		require.Equal(t, overall.Limit, d.Verdicts[0].Remaining, "what the one refuses, the other has not spent")
	}
	spend(t, l, caller, overall.Limit, overall, open)
	require.False(t, check(t, l, caller, 1, overall, open).Allowed)
}

// Three replicas share what one would admit, as long as they were alive when last heard of.
func TestReplicasDivideTheLimit(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		o := ratelimit.Options{Heartbeat: 200 * time.Millisecond, Budget: budget}
		var replicas []*ratelimit.Limiter
		for _, name := range []string{"one", "two", "three"} {
			o.Replica = name
			replicas = append(replicas, b.running(t, o))
		}
		eventually(t, func() bool {
			for _, l := range replicas {
				if l.Replicas() != 3 {
					return false
				}
			}
			return true
		})
		for _, node := range b.nodes {
			require.NoError(t, node.Kill())
		}
		for _, l := range replicas {
			spend(t, l, caller, overall.Limit/3, overall)
			d := check(t, l, caller, 1, overall)
			require.False(t, d.Allowed)
			require.True(t, d.Degraded)
			require.True(t, check(t, l, "dear", 5, overall).Allowed, "what costs more than the share")
			require.False(t, check(t, l, "dear", 5, overall).Allowed)
			require.EqualValues(t, 3, l.Replicas(), "the last that was known")
		}
	})
}

func TestAReplicaThatIsGoneNoLongerCounts(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		s := settings{Heartbeat: 100 * time.Millisecond}
		known := func(p process) float64 { return p.Metric(ratelimit.MetricReplicas)[""] }
		s.Replica = "one"
		one := startProcess(t, b, s)
		s.Replica = "two"
		two := startProcess(t, b, s)
		ctx, leave := context.WithCancel(t.Context())
		three := b.limiter(t, ratelimit.Options{Replica: "three", Heartbeat: s.Heartbeat})
		left := make(chan error, 1)
		go func() { left <- three.Run(ctx) }()
		eventually(t, func() bool { return known(one) == 3 && known(two) == 3 })

		two.Kill()
		eventually(t, func() bool { return known(one) == 2 })
		leave()
		require.NoError(t, <-left)
		rdb := connect(t, b.owner(t, ratelimit.ReplicasKey))
		require.ErrorIs(t, rdb.ZScore(t.Context(), ratelimit.ReplicasKey, "three").Err(), redis.Nil, "it said so")
		eventually(t, func() bool { return known(one) == 1 })
	})
}

// Without Redis too, a clock that is set back locks nobody out for the length of the step.
func TestWithoutRedisAClockThatIsSetBack(t *testing.T) {
	t.Parallel()
	b, clock := oneRedis(t), newClock()
	l := b.limiter(t, ratelimit.Options{}.At(clock.now))
	require.NoError(t, b.nodes[0].Kill())
	spend(t, l, caller, overall.Limit, overall)
	clock.advance(-time.Hour)
	require.Equal(t, time.Minute, check(t, l, caller, 1, overall).Wait())
	clock.advance(30 * time.Second)
	require.Equal(t, 30*time.Second, check(t, l, caller, 1, overall).Wait())
	clock.advance(30 * time.Second)
	spend(t, l, caller, overall.Limit, overall)
}

// Whoever ends its own wait gets its own error, and takes Redis away from nobody.
func TestACallerWhoLeaves(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	l := b.limiter(t, ratelimit.Options{})
	spend(t, l, caller, 1, overall)
	compiled := compile(t, l, overall)[0]
	require.NoError(t, b.nodes[0].Pause())
	var callers sync.WaitGroup
	for range 30 {
		callers.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), budget)
			defer cancel()
			d, err := l.Check(ctx, caller, 1, compiled)
			assert.ErrorIs(t, err, context.DeadlineExceeded, "%+v", d)
		})
	}
	callers.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.Check(ctx, caller, 1, compiled)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, b.nodes[0].Resume())
	require.Equal(t, ratelimit.FromRedis, check(t, l, "user:43", 1, overall).Source, "the breaker has not opened")
}

func TestTheBreakerSparesWhoeverComesNext(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	client := b.network().client()
	t.Cleanup(func() { _ = client.Close() })
	var asked atomic.Int64
	client.AddHook(afterEach{func(cmd redis.Cmder) {
		if cmd.Name() == "evalsha" {
			asked.Add(1)
		}
	}})
	l := ratelimit.New(client, ratelimit.Options{Replica: "one", Budget: budget})
	require.NoError(t, b.nodes[0].Pause())
	began := time.Now()
	for range 1_000 {
		require.True(t, check(t, l, caller, 1, overall).Degraded)
	}
	rests := int(time.Since(began) / ratelimit.BreakerRest)
	require.NoError(t, b.nodes[0].Resume())
	eventually(t, func() bool { return l.Late() == 0 })
	require.GreaterOrEqual(t, int(asked.Load()), ratelimit.BreakerTrips)
	require.LessOrEqual(t, int(asked.Load()), ratelimit.BreakerTrips+rests)
	eventually(t, func() bool { return !check(t, l, "user:43", 1, overall).Degraded })
}

// A script whose reply is lost has spent what nobody got. A Cluster's client may repeat it, and so spend again.
func TestLostReplies(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		n, proxies := b.proxies(t)
		l := n.limiter(t, ratelimit.Options{})
		node, rdb := b.keeper(t)
		p := overall
		p.Fallback = ratelimit.Closed
		admitted, lost := 0, 0
		for range 3 * p.Limit {
			var gone <-chan struct{}
			if lost < 3 {
				gone = proxies[node].LoseReply("evalsha")
			}
			d := check(t, l, caller, 1, p)
			if gone != nil {
				<-gone
				lost++
			}
			if d.Allowed {
				admitted++
			}
		}
		t.Logf("%d admitted of %d, %d replies lost", admitted, p.Limit, lost)
		require.Less(t, admitted, int(p.Limit))
		require.Positive(t, admitted)
		if b.cluster == nil {
			require.Equal(t, int(p.Limit)-lost, admitted)
		}
		require.Equal(t, p.Limit, rdb.LLen(t.Context(), ratelimit.Key(caller, p)).Val())
	}, "tls") // the proxy cannot tell which reply to lose
}

// What Redis forgets can be spent once more, and no more than once.
func TestRedisForgets(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := b.limiter(t, ratelimit.Options{})
		_, rdb := b.keeper(t)
		for _, forget := range []func() error{
			func() error { return rdb.FlushAll(t.Context()).Err() },
			func() error { return rdb.Del(t.Context(), ratelimit.Key(caller, overall)).Err() },
		} {
			reset(t, l, caller, overall)
			spend(t, l, caller, overall.Limit, overall)
			require.NoError(t, forget())
			spend(t, l, caller, overall.Limit, overall)
			require.False(t, check(t, l, caller, 1, overall).Allowed)
		}
		for _, node := range b.nodes {
			require.NoError(t, connect(t, node).ScriptFlush(t.Context()).Err())
		}
		d := check(t, l, "user:43", 1, overall)
		require.True(t, d.Allowed)
		require.False(t, d.Degraded, "its scripts too")
	})
}

// A full Redis spends from all policies or from none, and goes on to deny what it knows.
func TestAFullRedisSpendsNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := b.limiter(t, ratelimit.Options{})
		_, rdb := b.keeper(t)
		spend(t, l, caller, 2, overall, runs)
		require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
		d := check(t, l, caller, 1, overall, runs)
		require.True(t, d.Allowed)
		require.True(t, d.Degraded)
		require.EqualValues(t, 2, rdb.LLen(t.Context(), ratelimit.Key(caller, overall)).Val())
		require.EqualValues(t, 2, rdb.LLen(t.Context(), ratelimit.Key(caller, runs)).Val())
		d = check(t, l, caller, runs.Limit, overall, runs)
		require.False(t, d.Allowed)
		require.Equal(t, ratelimit.FromRedis, d.Source)
	})
}
