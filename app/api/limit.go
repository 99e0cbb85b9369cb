package api

import (
	"errors"
	"maps"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"nervous/app/identity"
	"nervous/app/ratelimit"
)

// limits says by which policies each route is limited, and lets nothing through that they do not hold. What is no route
// (404, 405) is limited too: only exempt makes an exception.
type limits struct {
	limiter       *ratelimit.Limiter
	overall       ratelimit.Policy
	allowOverride bool

	// free are the routes without a limit, and more has the second policy of those that have one. Both are complete
	// before the first request.
	free map[route]bool
	more map[route]ratelimit.Policy
}

type route struct{ method, path string }

// cost is what a request spends of each policy, whatever it asks for. To make some dearer, let it depend on the route;
// it must not be more than a policy's limit.
const cost = 1

// exempt takes the limits off routes.
func (l limits) exempt(routes ...*echo.Route) {
	for _, r := range routes {
		l.free[route{r.Method, r.Path}] = true
	}
}

// also limits a route by a second policy, in the same check. A policy without a limit is none.
func (l limits) also(p ratelimit.Policy, r *echo.Route) {
	if p.Limit > 0 {
		l.more[route{r.Method, r.Path}] = p
	}
}

func (l limits) policiesOf(c echo.Context) []ratelimit.Policy {
	asked := route{c.Request().Method, c.Path()}
	if l.free[asked] {
		return nil
	}
	if p, ok := l.more[asked]; ok {
		return []ratelimit.Policy{l.overall, p}
	}
	return []ratelimit.Policy{l.overall}
}

// admit is the middleware. Everything that is wrong with a request comes after its count, so that no fault is a way
// around the limit.
func (l limits) admit(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		policies := l.policiesOf(c)
		if len(policies) == 0 {
			return next(c)
		}
		who := callerOf(c)
		policies, notChosen := l.choose(c.Request().Header.Get(strategyHeader), policies)
		decision, err := l.limiter.Check(c.Request().Context(), who.name, cost, policies...)
		if err != nil {
			return err
		}
		if len(decision.Verdicts) > 0 { // none if the caller chose not to be limited
			c.Set(limitSourceKey, decision.Source)
			describeLimits(c.Response().Header(), decision.Verdicts)
		}
		switch {
		case !decision.Allowed:
			return deniedError{decision}
		case errors.Is(who.refusal, identity.ErrInvalid):
			return who.refusal
		case notChosen != nil:
			return notChosen
		}
		return next(c)
	}
}

// deniedError is a request that is one too many.
type deniedError struct{ ratelimit.Decision }

func (deniedError) Error() string { return "a rate limit was reached" }

// The problem types of draft-ietf-httpapi-ratelimit-headers.
const (
	quotaExceeded   = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	reducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// problem names the policies that refused. Where one of them is closed for want of Redis, it is our fault, not the
// caller's.
func (d deniedError) problem() problem {
	p := problem{
		Type: quotaExceeded, Status: http.StatusTooManyRequests, Title: "Limit reached",
		Detail:            "Every request counts for a while. Come again when Retry-After has passed.",
		retryAfterSeconds: int(secondsUp(d.Wait())),
	}
	for _, v := range d.Verdicts {
		if v.Wait == 0 {
			continue
		}
		p.ViolatedPolicies = append(p.ViolatedPolicies, v.Policy.Name)
		if d.Degraded && v.Policy.Fallback == ratelimit.Closed {
			p.Type, p.Status, p.Title = reducedCapacity, http.StatusServiceUnavailable, "Requests cannot be counted"
			p.Detail = "Without the store that counts them, none is let through."
		}
	}
	return p
}

// reset answers DELETE /ratelimit: nothing of what the caller has spent counts any more. Load scripts start with it.
func (l limits) reset(c echo.Context) error {
	who := callerOf(c)
	if errors.Is(who.refusal, identity.ErrInvalid) {
		return who.refusal
	}
	policies := slices.AppendSeq([]ratelimit.Policy{l.overall}, maps.Values(l.more))
	if err := l.limiter.Reset(c.Request().Context(), who.name, policies...); err != nil {
		return problem{
			Status: http.StatusServiceUnavailable, Title: "Not reset", retryAfterSeconds: 1,
			Detail: "The store that counts requests does not answer.",
		}
	}
	return c.NoContent(http.StatusNoContent)
}
