package ratelimit_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/ratelimit"
)

const (
	sequences = 150
	steps     = 60
)

// Whatever is asked at whatever times, the script says what the specification says; and both do what they promise, by
// the true time of what was admitted, which an oracle counts that knows nothing of logs.
func TestRandomSequences(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	redis := oneRedis(t).redisDecides(t)
	for i := range uint64(sequences) {
		random := rand.New(rand.NewPCG(seed, i))
		name := fmt.Sprintf("seed %d, sequence %d", seed, i)
		policies := randomPolicies(random)
		var specification ratelimit.Specification
		script := redis(name)
		// How the clock goes: always forward; also set back; also set forth.
		disorder := i % 3
		var admitted []admission
		// True time goes on by itself; the server's clock is set, now and then, to something else.
		truly, clock := start, start
		for n := range steps {
			passed := randomPause(random, policies)
			truly, clock = truly.Add(passed), clock.Add(passed)
			if disorder > 0 && random.IntN(8) == 0 {
				by := randomPause(random, policies) * time.Duration(1+random.IntN(3))
				if disorder == 1 || random.IntN(2) == 0 {
					by = -by
				}
				clock = clock.Add(by)
			}
			cost := 1 + random.Int64N(leastLimit(policies))
			want := specification.Decide(clock, cost, policies...)
			require.Equal(t, want, script(clock, cost, policies...), "%s, step %d", name, n)
			allowed := true
			for _, v := range want {
				require.LessOrEqual(t, v.Wait, v.Policy.Window, "%s, step %d: nobody waits longer than a window", name, n)
				allowed = allowed && v.Wait == 0
			}
			if disorder == 0 {
				require.Equal(t, admissible(admitted, truly, cost, policies), allowed, "%s, step %d", name, n)
			}
			if allowed {
				admitted = append(admitted, admission{truly, cost})
			}
		}
		for _, p := range policies {
			if disorder < 2 && p.Strategy == ratelimit.Exact {
				require.LessOrEqual(t, worstWindow(admitted, p.Window), p.Limit, "%s: %+v", name, p)
			}
		}
	}
}

// admission is what was spent, and when.
type admission struct {
	at   time.Time
	cost int64
}

// admissible says whether the policies hold a cost besides what was admitted, while the clock never went wrong.
func admissible(admitted []admission, now time.Time, cost int64, policies []ratelimit.Policy) bool {
	for _, p := range policies {
		since := now.Add(-p.Window) // what was spent then no longer counts
		if p.Strategy == ratelimit.FixedWindow {
			since = now.Add(-1 - time.Duration(now.UnixNano()%p.Window.Nanoseconds()))
		}
		used := cost
		for _, a := range admitted {
			if a.at.After(since) {
				used += a.cost
			}
		}
		if used > p.Limit {
			return false
		}
	}
	return true
}

// worstWindow is the most that was admitted within any window: one of those that begin with an admission is the worst.
func worstWindow(admitted []admission, window time.Duration) (worst int64) {
	for _, first := range admitted {
		var units int64
		for _, a := range admitted {
			if !a.at.Before(first.at) && a.at.Before(first.at.Add(window)) {
				units += a.cost
			}
		}
		worst = max(worst, units)
	}
	return worst
}

func randomPolicies(random *rand.Rand) (policies []ratelimit.Policy) {
	for i := range 1 + random.IntN(3) {
		policies = append(policies, ratelimit.Policy{
			Name: fmt.Sprintf("policy-%d", i), Limit: 1 + random.Int64N(12),
			// Some of them do not divide a second.
			Window:   []time.Duration{time.Millisecond, 7 * time.Second, time.Minute, time.Hour}[random.IntN(4)],
			Strategy: ratelimit.Strategies()[random.IntN(2)], Fallback: ratelimit.Local,
		})
	}
	return policies
}

func leastLimit(policies []ratelimit.Policy) int64 {
	least := policies[0].Limit
	for _, p := range policies {
		least = min(least, p.Limit)
	}
	return least
}

// randomPause is often none at all, sometimes exactly a window, and otherwise any fraction of one.
func randomPause(random *rand.Rand, policies []ratelimit.Policy) time.Duration {
	window := policies[random.IntN(len(policies))].Window
	switch random.IntN(6) {
	case 0:
		return 0
	case 1:
		return window
	default:
		return time.Duration(random.Int64N(window.Microseconds()/int64(1+random.IntN(10)))) * time.Microsecond
	}
}
