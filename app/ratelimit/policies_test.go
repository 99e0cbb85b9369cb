package ratelimit_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/app/ratelimit"
)

func TestAllPoliciesOrNoneInOneRoundTrip(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := b.limiter(t, ratelimit.Options{})
		before := b.calls(t, "evalsha")
		spend(t, l, caller, runs.Limit, overall, runs)
		d := check(t, l, caller, 1, overall, runs)
		require.False(t, d.Allowed)
		require.Zero(t, d.Verdicts[0].Wait)
		require.Equal(t, overall.Limit-runs.Limit, d.Verdicts[0].Remaining, "what runs refused, overall has not spent")
		require.Positive(t, d.Verdicts[1].Wait)
		spend(t, l, caller, overall.Limit-runs.Limit, overall)
		require.False(t, check(t, l, caller, 1, overall).Allowed)
		require.Equal(t, overall.Limit+2, b.calls(t, "evalsha")-before, "one a check")
		require.Zero(t, b.calls(t, "eval"))
	})
}

// Callers are told apart whatever they are called, and none of them can spend another's units by its name.
func TestHostileNames(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := b.limiter(t, ratelimit.Options{})
		hashed := func(who string) string {
			_, rest, _ := strings.Cut(ratelimit.Key(who, overall), "{")
			tag, _, _ := strings.Cut(rest, "}")
			return tag
		}
		names := []string{
			"", "{", "}", "{}", "{user:1}", "}user:1{", "user:1", "user:1}:overall:exact", "a b", "a\nb", "a\r\nb", "a\x00b",
			"\xff\xfe", "ü", "用户", "*", "replicas", "user:1:overall", strings.Repeat("x", 64), strings.Repeat("x", 65),
			strings.Repeat("x", 10<<10), strings.Repeat("x", 10<<10) + "y", strings.Repeat("ü", 40),
		}
		for _, n := range names {
			names = append(names, hashed(n), strings.TrimPrefix(hashed(n), "sha256:"))
		}
		told := map[string]bool{}
		for _, n := range names {
			if told[n] {
				continue
			}
			told[n] = true
			spend(t, l, n, runs.Limit, runs)
			require.False(t, check(t, l, n, 1, runs).Allowed, "%q", n)
			reset(t, l, n, runs)
			spend(t, l, n, runs.Limit, runs)
		}
		require.Len(t, b.keys(t), len(told))
		for _, key := range b.keys(t) {
			require.Less(t, len(key), 120)
		}
	})
}

func TestWhatCanNeverBeAdmittedIsAnError(t *testing.T) {
	t.Parallel()
	l := oneRedis(t).limiter(t, ratelimit.Options{})
	for _, cost := range []int64{-1, 0, runs.Limit + 1} {
		_, err := l.Check(t.Context(), caller, cost, compile(t, l, overall, runs)...)
		require.ErrorIs(t, err, ratelimit.ErrCost)
	}
	d := check(t, l, caller, 1)
	require.True(t, d.Allowed, "no policy is no limit")
	require.Zero(t, d.Wait())
	require.Panics(t, func() { ratelimit.New(nil, ratelimit.Options{}) })
}

func TestStrategiesAndFallbacksByName(t *testing.T) {
	t.Parallel()
	for _, s := range ratelimit.Strategies() {
		var got ratelimit.Strategy
		require.NoError(t, got.UnmarshalText([]byte(s)))
		require.Equal(t, s, got)
	}
	for _, f := range ratelimit.Fallbacks() {
		var got ratelimit.Fallback
		require.NoError(t, got.UnmarshalText([]byte(f)))
		require.Equal(t, f, got)
	}
	kept := ratelimit.Exact
	require.EqualError(t, kept.UnmarshalText([]byte("gcra")), `there is no strategy "gcra", only fixed_window, exact`)
	require.Equal(t, ratelimit.Exact, kept)
}
