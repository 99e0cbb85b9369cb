package ratelimit

import (
	"cmp"
	"slices"
	"time"
)

// Decision is the answer to one Check.
type Decision struct {
	// Allowed says that the cost was spent, from every policy. Otherwise it was spent from none.
	Allowed bool

	// Degraded says that Redis could not be asked, so that each policy's Fallback decided.
	Degraded bool

	// Source says who decided.
	Source Source

	// Verdicts are what each policy says, in the order they were asked for.
	Verdicts []Verdict
}

// Source is where a decision comes from.
type Source string

const (
	// FromRedis is a decision that took a round-trip.
	FromRedis Source = "redis"
	// FromMemory is a denial that this process knew already.
	FromMemory Source = "memory"
	// FromFallback is a decision without Redis.
	FromFallback Source = "fallback"
)

// Verdict is what one policy says.
type Verdict struct {
	Policy Policy

	// Remaining is how many units the caller may still spend now.
	Remaining int64

	// Wait is how long until the policy would admit what was asked for; 0 if it does. The caller may spend units in the
	// meantime, so this is the least.
	Wait time.Duration

	// Reset is how long until Remaining grows by itself; 0 if nothing is spent.
	Reset time.Duration
}

// Wait returns how long until all policies would admit what was asked for; 0 if they do.
func (d Decision) Wait() time.Duration { return d.deciding().Wait }

// deciding is the verdict that matters: the longest wait, or else the least that remains.
func (d Decision) deciding() Verdict {
	if len(d.Verdicts) == 0 {
		return Verdict{} // no policy was asked
	}
	return d.Verdicts[d.decidingIndex()]
}

func (d Decision) decidingIndex() int {
	first := 0
	for i, v := range d.Verdicts {
		if best := d.Verdicts[first]; cmp.Or(cmp.Compare(v.Wait, best.Wait), cmp.Compare(best.Remaining, v.Remaining)) > 0 {
			first = i
		}
	}
	return first
}

// after is the same decision so much later.
func (d Decision) after(elapsed time.Duration) Decision {
	d.Verdicts = slices.Clone(d.Verdicts)
	for i := range d.Verdicts {
		v := &d.Verdicts[i]
		v.Wait, v.Reset = max(0, v.Wait-elapsed), max(0, v.Reset-elapsed)
	}
	return d
}
