package ratelimit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/ratelimit"
)

// unconnected is a limiter that is asked for nothing that needs Redis.
func unconnected(t *testing.T) *ratelimit.Limiter {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { _ = client.Close() })
	return ratelimit.New(client, ratelimit.Options{Replica: "one"})
}

func TestLimiter_Policy_ErrorListsEveryFaultWithItsValue(t *testing.T) {
	t.Parallel()
	l := unconnected(t)
	_, err := l.Policy(ratelimit.Policy{Limit: -3, Window: time.Microsecond, Strategy: "gcra", Fallback: "maybe"})
	require.EqualError(t, err, strings.Join([]string{
		`rate limit: policy "": Name is empty, set one`,
		`rate limit: policy "": Limit is -3, it must be from 1 to 100000`,
		`rate limit: policy "": Window is 1µs, it must be from 1ms to 87600h0m0s`,
		`rate limit: policy "": Strategy is "gcra", it must be one of fixed_window, exact`,
		`rate limit: policy "": Fallback is "maybe", it must be one of local, open, closed`,
	}, "\n"))
	for _, p := range []ratelimit.Policy{
		{Name: "x", Limit: ratelimit.MaxLimit + 1, Window: time.Minute},
		{Name: "x", Limit: 1, Window: ratelimit.MaxWindow + 1},
		{Name: "x", Limit: 1},
	} {
		compiled, err := l.Policy(p)
		require.Error(t, err, "%+v", p)
		require.Nil(t, compiled)
	}
}

func TestLimiter_Policy_FillsInDefaults(t *testing.T) {
	t.Parallel()
	compiled, err := unconnected(t).Policy(ratelimit.Policy{Name: "x", Limit: 1, Window: time.Millisecond})
	require.NoError(t, err)
	require.Equal(t, ratelimit.Policy{
		Name: "x", Limit: 1, Window: time.Millisecond, Strategy: ratelimit.Exact, Fallback: ratelimit.Local,
	}, compiled.Settings())
}

func TestLimiter_Check_RefusesPoliciesThatWereNotCompiled(t *testing.T) {
	t.Parallel()
	l := unconnected(t)
	for _, p := range []*ratelimit.CompiledPolicy{nil, {}} {
		_, err := l.Check(t.Context(), caller, 1, compile(t, l, overall)[0], p)
		require.ErrorIs(t, err, ratelimit.ErrPolicies)
		require.ErrorContains(t, err, "number 2")
		require.ErrorIs(t, l.Reset(t.Context(), caller, p), ratelimit.ErrPolicies)
		require.NotErrorIs(t, err, ratelimit.ErrCost)
	}
}

func TestLimiter_Check_DenialFromMemoryAllocatesAtMostTwice(t *testing.T) {
	l := oneRedis(t).limiter(t, ratelimit.Options{})
	dear := runs
	dear.Window = time.Hour
	compiled := compile(t, l, overall, dear)
	spend(t, l, caller, dear.Limit, overall, dear)
	require.False(t, check(t, l, caller, 1, overall, dear).Allowed)
	ctx := t.Context()
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		d, err := l.Check(ctx, caller, 1, compiled[0], compiled[1])
		if err != nil || d.Source != ratelimit.FromMemory {
			t.Fatal(d, err)
		}
	}), 2.0)
}

// No two policies, callers or namespaces have the same key, whatever they are called.
func TestLimiter_Check_NamesNeverMeetInAKey(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		parts := []string{"a", "a:b", "b", "a}", "{a", "a%3Ab", "%", ":", "a}:b:exact", "sha256:a", "ratelimit"}
		known := map[string]bool{}
		for _, namespace := range parts {
			l := b.limiter(t, ratelimit.Options{Namespace: namespace})
			for _, name := range parts {
				p := ratelimit.Policy{Name: name, Limit: 1, Window: time.Hour, Strategy: ratelimit.Exact}
				for _, who := range parts[:4] {
					require.True(t, check(t, l, who, 1, p).Allowed, "%q %q %q", namespace, name, who)
					known[ratelimit.KeyIn(namespace, who, p)] = true
				}
			}
		}
		require.Len(t, known, 4*len(parts)*len(parts))
		require.Len(t, b.keys(t), len(known))
		for _, key := range b.keys(t) {
			require.True(t, known[key], key)
		}
	})
}

func TestLimiter_Check_TextThatLooksLikeAHashIsAnotherCaller(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := b.limiter(t, ratelimit.Options{})
		long := strings.Repeat("x", 65)
		_, rest, _ := strings.Cut(ratelimit.Key(long, overall), "{")
		hash, _, _ := strings.Cut(rest, "}")
		require.True(t, strings.HasPrefix(hash, "sha256:"))
		require.NotEqual(t, ratelimit.Key(long, overall), ratelimit.Key(hash, overall))
		spend(t, l, long, overall.Limit, overall)
		require.False(t, check(t, l, long, 1, overall).Allowed)
		require.True(t, check(t, l, hash, 1, overall).Allowed)
	})
}

// Two namespaces share a Redis and nothing else: no limits, no heartbeats, no resets.
func TestLimiter_NamespacesAreApart(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		o := ratelimit.Options{Heartbeat: 100 * time.Millisecond}
		limiters := map[string]*ratelimit.Limiter{}
		for _, namespace := range []string{"one", "two", "one again"} {
			o.Namespace, o.Replica = strings.TrimSuffix(namespace, " again"), namespace
			limiters[namespace] = b.running(t, o)
		}
		one, two, again := limiters["one"], limiters["two"], limiters["one again"]
		eventually(t, func() bool { return one.Subscribed() && two.Subscribed() && again.Subscribed() })
		eventually(t, func() bool { return one.Replicas() == 2 && again.Replicas() == 2 })
		for range 5 {
			require.EqualValues(t, 1, two.Replicas())
			spend(t, two, "user:43", 1, overall)
		}

		for _, l := range []*ratelimit.Limiter{one, two} {
			spend(t, l, caller, overall.Limit, overall)
			require.Equal(t, ratelimit.FromRedis, check(t, l, caller, 1, overall).Source)
			require.Equal(t, ratelimit.FromMemory, check(t, l, caller, 1, overall).Source)
		}
		reset(t, again, caller, overall)
		eventually(t, func() bool { return check(t, one, caller, 1, overall).Allowed })
		require.Equal(t, ratelimit.FromMemory, check(t, two, caller, 1, overall).Source)
	})
}
