package api

import (
	"fmt"
	"slices"

	"nervous/app/ratelimit"
)

// strategyHeader chooses how a request is counted, where callers may: a strategy's name, or "off". It is a header and
// not a parameter, because it has the same meaning on every route.
const strategyHeader = "X-RateLimit-Strategy"

// strategyField is how problems name it.
const strategyField = "x-ratelimit-strategy"

// off is no limit.
const off = "off"

// choose returns the strategy of that name, or off. If there is none, or the caller may not choose it, it is the
// configured one, and the error is for after the check.
func (l limits) choose(name string) (ratelimit.Strategy, error) {
	chosen := ratelimit.Strategy(name)
	switch {
	case name == "" || chosen == l.strategy:
		return l.strategy, nil
	case name != off && !slices.Contains(ratelimit.Strategies(), chosen):
		return l.strategy, unknownStrategy(strategyField, fmt.Errorf("it is one of %q, or %q", ratelimit.Strategies(), off))
	case !l.allowOverride:
		return l.strategy, notYoursToChoose(strategyField)
	}
	return chosen, nil
}
