package ratelimit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/ratelimit"
)

// decider is what both have in common: the specification in Go, and the script in Redis.
type decider func(now time.Time, cost int64, policies ...ratelimit.Policy) []ratelimit.Verdict

// redisDecides is the script, at a time of the test's, for a caller of its own.
func (b backend) redisDecides(t *testing.T) func(who string) decider {
	t.Helper()
	clock := newClock()
	l := b.limiter(t, ratelimit.Options{}.At(clock.now))
	return func(who string) decider {
		return func(now time.Time, cost int64, policies ...ratelimit.Policy) []ratelimit.Verdict {
			clock.set(now)
			d, err := l.Ask(t.Context(), who, cost, policies...)
			require.NoError(t, err)
			return d.Verdicts
		}
	}
}

// step asks at a time since the start.
type step struct {
	at   time.Duration
	cost int64
	want []says
	// limit is what the first policy's is from here on, if it is changed.
	limit int64
}

// says is a verdict, but for its policy.
type says struct {
	remaining   int64
	wait, reset time.Duration
}

const s = time.Second

func one(remaining int64, wait, reset time.Duration) []says { return []says{{remaining, wait, reset}} }

var (
	three = exactly("overall", 3, time.Minute)
	five  = exactly("overall", 5, time.Minute)
	quick = exactly("runs", 2, 10*s)
	fixed = ratelimit.Policy{
		Name: "overall", Limit: 3, Window: time.Minute, Strategy: ratelimit.FixedWindow, Fallback: ratelimit.Local,
	}
)

func exactly(name string, limit int64, window time.Duration) ratelimit.Policy {
	return ratelimit.Policy{
		Name: name, Limit: limit, Window: window, Strategy: ratelimit.Exact, Fallback: ratelimit.Local,
	}
}

// The table that the specification and the script are both held to.
var cases = []struct {
	name     string
	policies []ratelimit.Policy
	steps    []step
}{
	{"a unit counts until exactly a window later", []ratelimit.Policy{three}, []step{
		{at: 0, cost: 1, want: one(2, 0, 60*s)},
		{at: 10 * s, cost: 1, want: one(1, 0, 50*s)},
		{at: 20 * s, cost: 1, want: one(0, 0, 40*s)},
		{at: 30 * s, cost: 1, want: one(0, 30*s, 30*s)},
		{at: 60*s - time.Microsecond, cost: 1, want: one(0, time.Microsecond, time.Microsecond)},
		{at: 60 * s, cost: 1, want: one(0, 0, 10*s)},
		{at: 60 * s, cost: 1, want: one(0, 10*s, 10*s)},
		{at: 10 * time.Minute, cost: 1, want: one(2, 0, 60*s)},
	}},
	{"several units at the same moment", []ratelimit.Policy{three}, []step{
		{at: 0, cost: 1, want: one(2, 0, 60*s)},
		{at: 0, cost: 1, want: one(1, 0, 60*s)},
		{at: 0, cost: 1, want: one(0, 0, 60*s)},
		{at: 0, cost: 1, want: one(0, 60*s, 60*s)},
		{at: 60 * s, cost: 3, want: one(0, 0, 60*s)},
	}},
	{"a cost waits until it fits, and a smaller one goes before", []ratelimit.Policy{five}, []step{
		{at: 0, cost: 3, want: one(2, 0, 60*s)},
		{at: 10 * s, cost: 3, want: one(2, 50*s, 50*s)},
		{at: 10 * s, cost: 2, want: one(0, 0, 50*s)},
		{at: 20 * s, cost: 1, want: one(0, 40*s, 40*s)},
		{at: 20 * s, cost: 4, want: one(0, 50*s, 40*s)},
		{at: 60 * s, cost: 3, want: one(0, 0, 10*s)},
		{at: 65 * s, cost: 5, want: one(0, 55*s, 5*s)},
		{at: 2*time.Minute - time.Microsecond, cost: 5, want: one(2, time.Microsecond, time.Microsecond)},
		{at: 2 * time.Minute, cost: 5, want: one(0, 0, 60*s)},
	}},
	{"the limit is lowered", []ratelimit.Policy{five}, []step{
		{at: 0, cost: 1, want: one(4, 0, 60*s)},
		{at: 1 * s, cost: 1, want: one(3, 0, 59*s)},
		{at: 2 * s, cost: 1, want: one(2, 0, 58*s)},
		{at: 3 * s, cost: 1, want: one(1, 0, 57*s)},
		{at: 4 * s, cost: 1, want: one(0, 0, 56*s)},
		{at: 10 * s, cost: 1, limit: 2, want: one(0, 53*s, 53*s)},
		{at: 62 * s, cost: 1, want: one(0, 1*s, 1*s)},
		{at: 63 * s, cost: 1, want: one(0, 0, 1*s)},
		{at: 63 * s, cost: 1, limit: 4, want: one(1, 0, 1*s)},
	}},
	{"the clock is set back a little", []ratelimit.Policy{three}, []step{
		{at: 30 * s, cost: 1, want: one(2, 0, 60*s)},
		{at: 40 * s, cost: 1, want: one(1, 0, 50*s)},
		{at: 50 * s, cost: 1, want: one(0, 0, 40*s)},
		{at: 45 * s, cost: 1, want: one(0, 40*s, 40*s)},
		{at: 85*s - time.Microsecond, cost: 1, want: one(0, time.Microsecond, time.Microsecond)},
		{at: 85 * s, cost: 1, want: one(0, 0, 10*s)},
	}},
	{"the clock is set back to when something was spent", []ratelimit.Policy{three}, []step{
		{at: 30 * s, cost: 1, want: one(2, 0, 60*s)},
		{at: 40 * s, cost: 1, want: one(1, 0, 50*s)},
		{at: 40 * s, cost: 1, want: one(0, 0, 50*s)},
		{at: 39 * s, cost: 1, want: one(0, 50*s, 50*s)},
		{at: 40 * s, cost: 1, want: one(0, 49*s, 49*s)},
	}},
	{"the clock is set back by more than a window", []ratelimit.Policy{three}, []step{
		{at: 10 * time.Minute, cost: 2, want: one(1, 0, 60*s)},
		{at: 10*time.Minute + 20*s, cost: 1, want: one(0, 0, 40*s)},
		{at: 0, cost: 1, want: one(0, 40*s, 40*s)},
		{at: 30 * s, cost: 1, want: one(0, 10*s, 10*s)},
		{at: 40 * s, cost: 2, want: one(0, 0, 20*s)},
	}},
	{"the clock is set back while there is room", []ratelimit.Policy{three}, []step{
		{at: 90 * s, cost: 1, want: one(2, 0, 60*s)},
		{at: 5 * s, cost: 1, want: one(1, 0, 60*s)},
		{at: 64 * s, cost: 2, want: one(1, 1*s, 1*s)},
		{at: 65 * s, cost: 2, want: one(1, 0, 60*s)},
	}},
	{"the clock is set forth", []ratelimit.Policy{three}, []step{
		{at: 0, cost: 3, want: one(0, 0, 60*s)},
		{at: time.Hour, cost: 2, want: one(1, 0, 60*s)},
		{at: time.Hour, cost: 2, want: one(1, 60*s, 60*s)},
	}},
	{"the clock is set forth and back again", []ratelimit.Policy{three}, []step{
		{at: 0, cost: 1, want: one(2, 0, 60*s)},
		{at: time.Hour, cost: 1, want: one(2, 0, 60*s)},
		{at: 1 * s, cost: 3, want: one(2, 60*s, 60*s)},
		{at: 61 * s, cost: 3, want: one(0, 0, 60*s)},
	}},
	{"what one policy refuses is spent from none", []ratelimit.Policy{five, quick}, []step{
		{at: 0, cost: 2, want: []says{{3, 0, 60 * s}, {0, 0, 10 * s}}},
		{at: 1 * s, cost: 1, want: []says{{3, 0, 59 * s}, {0, 9 * s, 9 * s}}},
		{at: 10 * s, cost: 2, want: []says{{1, 0, 50 * s}, {0, 0, 10 * s}}},
		{at: 20 * s, cost: 2, want: []says{{1, 40 * s, 40 * s}, {2, 0, 0}}},
		{at: 20 * s, cost: 1, want: []says{{0, 0, 40 * s}, {1, 0, 10 * s}}},
	}},
	{"a fixed window admits twice the limit around its end", []ratelimit.Policy{fixed}, []step{
		{at: 59 * s, cost: 3, want: one(0, 0, 1*s)},
		{at: 60*s - time.Microsecond, cost: 1, want: one(0, time.Microsecond, time.Microsecond)},
		{at: 60 * s, cost: 2, want: one(1, 0, 60*s)},
		{at: 61 * s, cost: 2, want: one(1, 59*s, 59*s)},
		{at: 61 * s, cost: 1, want: one(0, 0, 59*s)},
	}},
	{"a fixed window's limit is lowered", []ratelimit.Policy{fixed}, []step{
		{at: 10 * s, cost: 3, want: one(0, 0, 50*s)},
		{at: 11 * s, cost: 1, limit: 2, want: one(0, 49*s, 49*s)},
		{at: 60 * s, cost: 2, want: one(0, 0, 60*s)},
	}},
	{"a fixed window forgets when the clock is set into another", []ratelimit.Policy{fixed}, []step{
		{at: 70 * s, cost: 3, want: one(0, 0, 50*s)},
		{at: 65 * s, cost: 1, want: one(0, 55*s, 55*s)},
		{at: 50 * s, cost: 1, want: one(2, 0, 10*s)},
		{at: 70 * s, cost: 1, want: one(2, 0, 50*s)},
	}},
	{"strategies side by side", []ratelimit.Policy{
		fixed, exactly("runs", 4, time.Minute),
	}, []step{
		{at: 59 * s, cost: 3, want: []says{{0, 0, 1 * s}, {1, 0, 60 * s}}},
		{at: 60 * s, cost: 2, want: []says{{3, 0, 0}, {1, 59 * s, 59 * s}}},
		{at: 60 * s, cost: 1, want: []says{{2, 0, 60 * s}, {0, 0, 59 * s}}},
		{at: 118 * s, cost: 3, want: []says{{2, 2 * s, 2 * s}, {0, 1 * s, 1 * s}}},
	}},
}

func TestTheSpecificationAndTheScriptDecideTheseCasesAlike(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		redis := b.redisDecides(t)
		for _, c := range cases {
			var specification ratelimit.Specification
			for name, decide := range map[string]decider{"specification": specification.Decide, "redis": redis(c.name)} {
				policies := append([]ratelimit.Policy{}, c.policies...)
				for i, step := range c.steps {
					if step.limit > 0 {
						policies[0].Limit = step.limit
					}
					var got []says
					for i, v := range decide(start.Add(step.at), step.cost, policies...) {
						require.Equal(t, policies[i], v.Policy)
						got = append(got, says{v.Remaining, v.Wait, v.Reset})
					}
					require.Equal(t, step.want, got, "%s: %s, step %d", c.name, name, i+1)
				}
			}
		}
	})
}
