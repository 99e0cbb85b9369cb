package ratelimit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/ratelimit"
)

func TestADenialIsRememberedForAsLongAsItLasts(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		clock := newClock()
		l := b.limiter(t, ratelimit.Options{}.At(clock.now))
		spend(t, l, caller, overall.Limit, overall)
		first := check(t, l, caller, 1, overall)
		require.Equal(t, ratelimit.FromRedis, first.Source)
		require.Equal(t, time.Minute, first.Wait())

		before := b.calls(t, "")
		for range 100 {
			clock.advance(time.Second / 2)
			d := check(t, l, caller, 1, overall)
			require.False(t, d.Allowed)
			require.Equal(t, ratelimit.FromMemory, d.Source)
			require.Equal(t, start.Add(time.Minute).Sub(clock.now()), d.Wait())
			require.Equal(t, d.Wait(), d.Verdicts[0].Reset)
		}
		require.Equal(t, before, b.calls(t, ""), "the servers were not asked")

		clock.set(start.Add(time.Minute - time.Microsecond))
		require.False(t, check(t, l, caller, 1, overall).Allowed)
		clock.set(start.Add(time.Minute))
		require.True(t, check(t, l, caller, 1, overall).Allowed)
	})
}

func TestAnotherQuestionIsAskedAnew(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := b.limiter(t, ratelimit.Options{})
		spend(t, l, caller, overall.Limit-1, overall)
		require.False(t, check(t, l, caller, 2, overall).Allowed)
		require.Equal(t, ratelimit.FromMemory, check(t, l, caller, 2, overall).Source)

		require.True(t, check(t, l, caller, 1, runs).Allowed)
		raised := overall
		raised.Limit++
		require.True(t, check(t, l, caller, 2, raised).Allowed, "by a higher limit")
		require.True(t, check(t, l, "user:43", 2, overall).Allowed, "another caller")
		renamed := overall
		renamed.Strategy = ratelimit.FixedWindow
		require.True(t, check(t, l, caller, 2, renamed).Allowed, "counted otherwise")
	})
}

// A limiter that remembers gives the answers of one that does not, whatever is asked at whatever time.
func TestMemoryNeverRefusesWhatRedisWouldAdmit(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	b, clock := oneRedis(t), newClock()
	l := b.limiter(t, ratelimit.Options{}.At(clock.now))
	recalled := 0
	for i := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, i))
		policies := randomPolicies(random)
		var specification ratelimit.Specification
		for n := range steps {
			clock.advance(randomPause(random, policies) / 8)
			some := policies[:1+random.IntN(len(policies))]
			cost := 1 + random.Int64N(leastLimit(some))
			wait := time.Duration(0)
			for _, v := range specification.Decide(clock.now(), cost, some...) {
				wait = max(wait, v.Wait)
			}
			d := check(t, l, fmt.Sprint(i), cost, some...)
			require.Equal(t, wait == 0, d.Allowed, "seed %d, sequence %d, step %d: %+v", seed, i, n, d)
			if d.Source == ratelimit.FromMemory {
				recalled++
				require.LessOrEqual(t, d.Wait(), wait)
			}
		}
	}
	require.NotZero(t, recalled)
}

func TestAResetElsewhereReachesWhoRemembers(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		one, other := startProcess(t, b, settings{Replica: "one"}), startProcess(t, b, settings{Replica: "other"})
		b.subscribed(t, 2)
		policies := []ratelimit.Policy{overall}
		require.True(t, one.check(caller, overall.Limit, policies...).Allowed)
		require.True(t, one.check("user:43", overall.Limit, policies...).Allowed)
		for _, who := range []string{caller, "user:43"} { // their own subscription may still be news to them
			eventually(t, func() bool { return one.check(who, 1, policies...).Source == ratelimit.FromMemory })
		}
		other.Call("Reset", Ask{Caller: caller, Policies: policies}, &struct{}{})
		eventually(t, func() bool { return one.check(caller, 1, policies...).Allowed })
		require.Equal(t, ratelimit.FromMemory, one.check("user:43", 1, policies...).Source, "nobody else's")
	})
}

// While its subscription is down, a replica may miss a Reset: once it listens again, it believes nothing.
func TestALostSubscriptionForgetsAll(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := b.running(t, ratelimit.Options{})
		b.subscribed(t, 1)
		spend(t, l, caller, overall.Limit, overall)
		eventually(t, func() bool { // its own subscription may still be news to it
			check(t, l, caller, 1, overall)
			return check(t, l, caller, 1, overall).Source == ratelimit.FromMemory
		})
		_, rdb := b.keeper(t)
		require.NoError(t, rdb.Del(t.Context(), ratelimit.Key(caller, overall)).Err())
		for _, node := range b.nodes {
			_ = connect(t, node).Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Err()
		}
		eventually(t, func() bool { return check(t, l, caller, 1, overall).Source == ratelimit.FromRedis })
	})
}

// A Reset happens after Redis has denied, and before its answer is here.
func TestADenialFromBeforeAResetIsNotRemembered(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	client := b.network().client()
	t.Cleanup(func() { _ = client.Close() })
	l := ratelimit.New(client, ratelimit.Options{Replica: "one", Budget: timeout})
	spend(t, l, caller, overall.Limit, overall)
	once := true
	client.AddHook(afterEach{func(cmd redis.Cmder) {
		if cmd.Name() == "evalsha" && once {
			once = false
			reset(t, l, caller, overall)
		}
	}})
	require.False(t, check(t, l, caller, 1, overall).Allowed)
	require.True(t, check(t, l, caller, 1, overall).Allowed)
}

func TestTheMemoryIsBounded(t *testing.T) {
	t.Parallel()
	l := oneRedis(t).limiter(t, ratelimit.Options{Memory: 100})
	once := ratelimit.Policy{Name: "overall", Limit: 1, Window: time.Minute}
	for i := range 300 {
		who := fmt.Sprint(i, strings.Repeat("x", i))
		require.True(t, check(t, l, who, 1, once).Allowed)
		require.False(t, check(t, l, who, 1, once).Allowed)
	}
	denied, spenders, _ := l.Remembered()
	require.Equal(t, 100, denied)
	require.LessOrEqual(t, spenders, 100)
	require.Equal(t, ratelimit.FromRedis, check(t, l, "0", 1, once).Source)
}

// running is a limiter whose Run goes on until the test ends.
func (b backend) running(t *testing.T, o ratelimit.Options) *ratelimit.Limiter {
	t.Helper()
	l := b.limiter(t, o)
	runUntilTheEnd(t, l)
	return l
}

func runUntilTheEnd(t *testing.T, l *ratelimit.Limiter) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
}

// subscribed returns once so many replicas listen for resets.
func (b backend) subscribed(t *testing.T, replicas int64) {
	t.Helper()
	channel := ratelimit.ResetsChannel
	eventually(t, func() bool {
		var n int64
		for _, node := range b.nodes {
			counts, err := connect(t, node).PubSubNumSub(t.Context(), channel).Result()
			require.NoError(t, err)
			n += counts[channel]
		}
		return n == replicas
	})
}

// calls counts what the nodes were asked of that kind, or of the limiter's at all.
func (b backend) calls(t *testing.T, command string) (calls int64) {
	t.Helper()
	for _, node := range b.nodes {
		info, err := connect(t, node).Info(t.Context(), "commandstats").Result()
		require.NoError(t, err)
		for _, kind := range []string{"evalsha", "eval", "get", "lindex", "lpush", "time"} {
			if command != "" && command != kind {
				continue
			}
			if _, rest, found := strings.Cut(info, "cmdstat_"+kind+":calls="); found {
				var n int64
				_, err := fmt.Sscanf(rest, "%d", &n)
				require.NoError(t, err)
				calls += n
			}
		}
	}
	return calls
}

// afterEach looks at what Redis has answered.
type afterEach struct{ look func(redis.Cmder) }

func (afterEach) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h afterEach) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err != nil {
			cmd.SetErr(err) // go-redis does that only after the hooks
		}
		h.look(cmd)
		return err
	}
}

func (afterEach) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
