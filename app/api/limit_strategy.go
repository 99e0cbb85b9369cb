package api

import (
	"fmt"
	"slices"

	"nervous/app/ratelimit"
)

// strategyHeader chooses how a request is counted, where callers may: a strategy's name, or `off`. It is a header and
// not a parameter, because it has the same meaning on every route.
const strategyHeader = "X-RateLimit-Strategy"

// strategyField is how problems name it.
const strategyField = "x-ratelimit-strategy"

const off = "off"

// choose counts the policies by the strategy of that name. If there is none, or the caller may not choose it, they are
// left as configured, and the error is for after the check.
func (l limits) choose(name string, policies []ratelimit.Policy) ([]ratelimit.Policy, error) {
	chosen := ratelimit.Strategy(name)
	switch {
	case name == "" || chosen == l.overall.Strategy:
		return policies, nil
	case name != off && !slices.Contains(ratelimit.Strategies(), chosen):
		return policies, unknownStrategy(strategyField, fmt.Errorf("it is one of %q, or %q", ratelimit.Strategies(), off))
	case !l.allowOverride:
		return policies, notYoursToChoose(strategyField)
	case name == off:
		return nil, nil
	}
	for i := range policies {
		policies[i].Strategy = chosen
	}
	return policies, nil
}
