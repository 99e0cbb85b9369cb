package api

import (
	"fmt"
	"slices"

	"github.com/labstack/echo/v4"

	"nervous/app/ratelimit"
)

// strategyHeader chooses how a request is counted, where callers may: a strategy's name, or "off". It is a header and
// not a parameter, because it has the same meaning on every route.
const strategyHeader = "X-RateLimit-Strategy"

// strategyField is how problems name it.
const strategyField = "x-ratelimit-strategy"

// off is no limit.
const off = "off"

// choose returns the strategy that the header names, or off. If there is none of that name, or the caller may not
// choose it, it is the configured one, and the error is for after the check.
func (l limits) choose(c echo.Context) (ratelimit.Strategy, error) {
	name := c.Request().Header.Get(strategyHeader)
	chosen := ratelimit.Strategy(name)
	switch {
	case name == "" || chosen == l.strategy:
		return l.strategy, nil
	case name != off && !slices.Contains(ratelimit.Strategies(), chosen):
		return l.strategy, unknownStrategy(strategyField, fmt.Errorf("it is one of %q, or %q", ratelimit.Strategies(), off))
	case !l.demo.allows(c):
		return l.strategy, notYoursToChoose(strategyField)
	}
	return chosen, nil
}
