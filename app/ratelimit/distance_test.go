package ratelimit_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/ratelimit"
	"nervous/app/servicetest"
)

// wired is a client of a Redis at a distance, as a service wires it: each new connection loads the scripts of several
// mechanisms, in so many pipelines.
func wired(t *testing.T, proxy *servicetest.Proxy, pipelines int) redis.UniversalClient {
	t.Helper()
	o := network{Redis: []string{proxy.Addr()}}.options()
	o.PoolSize = 20
	o.OnConnect = func(ctx context.Context, conn *redis.Conn) error {
		for range pipelines {
			if err := ratelimit.LoadScripts(ctx, conn); err != nil {
				return err
			}
		}
		return nil
	}
	client := redis.NewUniversalClient(o)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// A new connection takes three round-trips until its first answer: 30 ms of a budget of 50. One that takes longer must
// be open before: Run opens it.
//
//nolint:paralleltest // a budget of 50 ms is not kept beside other tests
func TestLimiter_Check_AtADistanceSixteenCallersAreDecidedByRedis(t *testing.T) {
	for name, c := range map[string]struct {
		delay, budget time.Duration
		pipelines     int // of scripts, for each new connection
	}{
		"10 ms, new connections take longer than the budget": {10 * time.Millisecond, 50 * time.Millisecond, 3},
		"10 ms, new connections take twice the budget":       {10 * time.Millisecond, 50 * time.Millisecond, 8},
		// Four times as slow, because a machine that is busy with other tests needs some of the slack.
		"40 ms, cold pool": {40 * time.Millisecond, 200 * time.Millisecond, 1},
	} {
		t.Run(name, func(t *testing.T) {
			// On a busy machine a try may fail for want of a processor. One that succeeds shows what the limiter does.
			for try := 1; ; try++ {
				proxy := servicetest.NewProxy(t, servicetest.Redis(t).Addr())
				proxy.Delay(c.delay)
				client := wired(t, proxy, c.pipelines)
				l := ratelimit.New(client, ratelimit.Options{Replica: "one", Budget: c.budget})
				runUntilTheEnd(t, l)
				if c.pipelines > 1 {
					eventually(t, func() bool { return client.PoolStats().IdleConns >= 16 })
				}
				first, later := sixteenCallers(t, l, 3*time.Second)
				t.Logf("first second: %d fallbacks of %d checks; later: %d of %d",
					first.fallbacks.Load(), first.checks.Load(), later.fallbacks.Load(), later.checks.Load())
				// Each caller's first check may find a connection that is just being opened.
				if first.fallbacks.Load() <= 16 && later.fallbacks.Load() == 0 {
					require.Positive(t, later.checks.Load())
					return
				}
				require.Less(t, try, 3, "no try was decided by Redis alone")
			}
		})
	}
}

// share is how many checks fell back.
type share struct{ checks, fallbacks atomic.Int64 }

// sixteenCallers check as fast as they are answered, and count the first second apart.
func sixteenCallers(t *testing.T, l *ratelimit.Limiter, d time.Duration) (first, later *share) {
	t.Helper()
	p := overall
	p.Limit = 10_000
	compiled := compile(t, l, p)[0]
	first, later = &share{}, &share{}
	began := time.Now()
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			for passed := time.Duration(0); passed < d; passed = time.Since(began) {
				answer, err := l.Check(t.Context(), fmt.Sprint("user:", i), 1, compiled)
				if err != nil {
					t.Error(err)
					return
				}
				s := later
				if passed < time.Second {
					s = first
				}
				s.checks.Add(1)
				if answer.Degraded {
					s.fallbacks.Add(1)
					<-time.After(budget) // as long as a request takes; a busy loop would take the processor from Redis
				}
			}
		})
	}
	callers.Wait()
	return first, later
}

// slow is a limiter whose Redis answers after its budget, on connections that are open.
func slow(t *testing.T, o ratelimit.Options, delay time.Duration, hooks ...redis.Hook) (
	*ratelimit.Limiter, *servicetest.RedisServer, *servicetest.Proxy,
) {
	t.Helper()
	server := servicetest.Redis(t)
	proxy := servicetest.NewProxy(t, server.Addr())
	client := wired(t, proxy, 1)
	for _, hook := range hooks {
		client.AddHook(hook)
	}
	o.Replica, o.Budget = "one", budget
	l := ratelimit.New(client, o)
	eventually(t, func() bool { return !check(t, l, "the first", 1, overall).Degraded })
	proxy.Delay(delay)
	return l, server, proxy
}

func TestLimiter_Check_LateDenialIsRemembered(t *testing.T) {
	t.Parallel()
	l, server, _ := slow(t, ratelimit.Options{}, 4*budget)
	other := backend{nodes: []*servicetest.RedisServer{server}}.limiter(t, ratelimit.Options{})
	spend(t, other, caller, overall.Limit, overall)
	d := check(t, l, caller, 1, overall)
	require.True(t, d.Degraded)
	require.True(t, d.Allowed, "this replica knows of nothing that was spent")
	eventually(t, func() bool { return l.Late() == 0 })
	d = check(t, l, caller, 1, overall)
	require.False(t, d.Allowed)
	require.Equal(t, ratelimit.FromMemory, d.Source)
}

// The fallback counts every unit once: what it has spent itself is not entered again when Redis admits it late, and
// what it has not spent is.
func TestLimiter_Check_LateAdmissionIsCountedOnce(t *testing.T) {
	t.Parallel()
	l, server, proxy := slow(t, ratelimit.Options{}, 4*budget)
	compiled := compile(t, l, overall)[0]
	require.True(t, check(t, l, "spent by the fallback", 4, overall).Degraded)
	ctx, leave := context.WithTimeout(t.Context(), time.Millisecond)
	defer leave()
	_, err := l.Check(ctx, "not spent by the fallback", 4, compiled)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	eventually(t, func() bool { return l.Late() == 0 })
	proxy.Cut()
	require.NoError(t, server.Kill())
	for _, who := range []string{"spent by the fallback", "not spent by the fallback"} {
		d := check(t, l, who, 6, overall)
		require.True(t, d.Degraded)
		require.True(t, d.Allowed, who)
		require.False(t, check(t, l, who, 1, overall).Allowed, who)
	}
}

func TestLimiter_Check_LateCallsAreBounded(t *testing.T) {
	t.Parallel()
	l, server, _ := slow(t, ratelimit.Options{LateCalls: 3}, 0)
	compiled := compile(t, l, overall)[0]
	require.NoError(t, server.Pause())
	var callers sync.WaitGroup
	for range 4 { // fewer failures than open the circuit
		callers.Go(func() { _, _ = l.Check(t.Context(), caller, 1, compiled) })
	}
	callers.Wait()
	late := l.Late()
	require.GreaterOrEqual(t, late, int64(3))
	for range 3 {
		require.True(t, check(t, l, caller, 1, overall).Degraded)
	}
	require.LessOrEqual(t, l.Late(), late, "Redis was not asked")
	require.NoError(t, server.Resume())
	eventually(t, func() bool { return l.Late() == 0 && !check(t, l, "user:43", 1, overall).Degraded })
}

// A call that misses the budget is one failure. That it succeeds later neither closes the circuit nor counts again.
func TestLimiter_Check_LateSuccessIsNoEventOfTheBreaker(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	l, _, _ := slow(t, ratelimit.Options{}, 2*budget, beforeEach{func(cmd redis.Cmder) {
		if cmd.Name() == "evalsha" {
			asked.Add(1)
		}
	}})
	asked.Store(0)
	began := time.Now()
	for range ratelimit.BreakerTrips {
		require.True(t, check(t, l, caller, 1, overall).Degraded)
	}
	require.EqualValues(t, ratelimit.BreakerTrips, asked.Load())
	eventually(t, func() bool { return l.Late() == 0 }) // all have succeeded
	require.True(t, check(t, l, caller, 1, overall).Degraded)
	if time.Since(began) < ratelimit.BreakerRest {
		require.EqualValues(t, ratelimit.BreakerTrips, asked.Load(), "the circuit is open")
	}
}

type tallyKey struct{}

// What a hook finds in the context when a command has ended is what the telemetry charges: the caller that waited for
// it, or the background if none did.
func TestLimiter_Check_LateCallIsChargedToTheBackground(t *testing.T) {
	t.Parallel()
	charged := make(chan any, 100)
	o := ratelimit.Options{Detach: func(ctx context.Context) context.Context {
		return context.WithValue(ctx, tallyKey{}, "background")
	}}
	l, _, proxy := slow(t, o, 0, whenDone{func(ctx context.Context) { charged <- ctx.Value(tallyKey{}) }})
	compiled := compile(t, l, overall)[0]
	for len(charged) > 0 {
		<-charged
	}
	request := context.WithValue(t.Context(), tallyKey{}, "request")
	_, err := l.Check(request, caller, 1, compiled)
	require.NoError(t, err)
	require.Equal(t, "request", <-charged)

	proxy.Delay(4 * budget)
	d, err := l.Check(request, caller, 1, compiled)
	require.NoError(t, err)
	require.True(t, d.Degraded)
	require.Equal(t, "background", <-charged)
}

// beforeEach looks at what is asked.
type beforeEach struct{ look func(redis.Cmder) }

func (beforeEach) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h beforeEach) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.look(cmd)
		return next(ctx, cmd)
	}
}

func (beforeEach) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// whenDone looks at the context of an evalsha that has ended, as hooks of telemetry do.
type whenDone struct{ look func(context.Context) }

func (whenDone) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h whenDone) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == "evalsha" {
			h.look(ctx)
		}
		return err
	}
}

func (whenDone) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestLimiter_Shutdown_WaitsForLateCallsThenCancelsThem(t *testing.T) {
	t.Parallel()
	l, server, _ := slow(t, ratelimit.Options{}, 4*budget)
	rdb := connect(t, server)
	require.NoError(t, rdb.ZAdd(t.Context(), ratelimit.ReplicasKey, redis.Z{Score: 1, Member: "one"}).Err())
	require.True(t, check(t, l, caller, 1, overall).Degraded)
	require.NotZero(t, l.Late())
	require.NoError(t, l.Shutdown(t.Context()))
	require.Zero(t, l.Late())
	require.ErrorIs(t, rdb.ZScore(t.Context(), ratelimit.ReplicasKey, "one").Err(), redis.Nil, "it has left")

	l, server, _ = slow(t, ratelimit.Options{CallTimeout: time.Minute}, 0)
	require.NoError(t, server.Pause())
	require.True(t, check(t, l, caller, 1, overall).Degraded)
	ctx, cancel := context.WithTimeout(t.Context(), budget)
	defer cancel()
	began := time.Now()
	require.ErrorIs(t, l.Shutdown(ctx), context.DeadlineExceeded)
	require.Less(t, time.Since(began), soon, "not until the call has timed out")
	require.NoError(t, server.Resume())
}

func TestLimiter_Run_EndsSoonAfterItsContext(t *testing.T) {
	t.Parallel()
	server := servicetest.Redis(t)
	client := backend{nodes: []*servicetest.RedisServer{server}}.network().client()
	t.Cleanup(func() { _ = client.Close() })
	beating := make(chan string, 100)
	client.AddHook(beforeEach{func(cmd redis.Cmder) { beating <- cmd.Name() }})
	l := ratelimit.New(client, ratelimit.Options{Replica: "one", Connections: -1, Heartbeat: time.Hour})
	for _, fault := range []func() error{func() error { return nil }, server.Pause} {
		require.NoError(t, fault())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		for name := ""; name != "evalsha"; { // the heartbeat is on its way
			name = <-beating
		}
		cancel()
		select {
		case err := <-ended:
			require.NoError(t, err)
		case <-time.After(soon):
			t.Fatal("it goes on")
		}
	}
	require.NoError(t, server.Resume())
}
