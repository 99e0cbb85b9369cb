package api

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"nervous/app/identity"
	"nervous/app/ratelimit"
)

// limits says by which policies each route is limited, and admits only what they hold. A path or method without a route
// (404, 405) is limited too: only exempt makes an exception.
type limits struct {
	limiter  *ratelimit.Limiter
	strategy ratelimit.Strategy // as configured
	demo     demo

	// overall limits every route, and runs in addition those of also; it is nil if there is no such limit. events stands
	// in for overall on the routes of events, for callers with that scope; nil if there is no such limit either.
	overall, runs, events policyByStrategy

	// free are the routes without a limit, more those with the policy of runs, and taken those of events. All are
	// complete before the first request.
	free, more, taken map[route]bool
}

// policyByStrategy is one policy, compiled for each strategy that a caller may choose.
type policyByStrategy map[ratelimit.Strategy]*ratelimit.CompiledPolicy

type route struct{ method, path string }

// newLimits compiles the policies. The error lists every fault in them.
func newLimits(d Dependencies) (limits, error) {
	l := limits{
		limiter: d.Limiter, demo: demo(d.Demo),
		free: map[route]bool{}, more: map[route]bool{}, taken: map[route]bool{},
	}
	var inOverall, inRuns, inEvents error
	l.overall, l.strategy, inOverall = compile(d.Limiter, d.Overall)
	if d.Runs.Limit > 0 {
		l.runs, _, inRuns = compile(d.Limiter, d.Runs)
	}
	if d.Events.Limit > 0 {
		l.events, _, inEvents = compile(d.Limiter, d.Events)
	}
	return l, errors.Join(inOverall, inRuns, inEvents)
}

// compile returns the policy by every strategy, and the strategy that it has itself.
func compile(l *ratelimit.Limiter, p ratelimit.Policy) (policyByStrategy, ratelimit.Strategy, error) {
	configured, err := l.Policy(p)
	if err != nil {
		return nil, "", err
	}
	all := policyByStrategy{}
	for _, p.Strategy = range ratelimit.Strategies() {
		if all[p.Strategy], err = l.Policy(p); err != nil {
			return nil, "", err
		}
	}
	return all, configured.Settings().Strategy, nil
}

// cost is what a request spends of each policy, whatever it asks for. It may depend on the route, and must not be more
// than a policy's limit.
const cost = 1

// exempt takes the limits off routes.
func (l limits) exempt(routes ...*echo.Route) {
	for _, r := range routes {
		l.free[route{r.Method, r.Path}] = true
	}
}

// alsoRuns limits a route by the policy of runs too, in the same check.
func (l limits) alsoRuns(r *echo.Route) { l.more[route{r.Method, r.Path}] = true }

// scopeEvents is the scope of a payment provider's token.
const scopeEvents = "events"

// takeEvents limits routes by the policy of events, for callers with that scope.
func (l limits) takeEvents(routes ...*echo.Route) {
	for _, r := range routes {
		l.taken[route{r.Method, r.Path}] = true
	}
}

// policiesOf returns what a route is limited by for the caller, counted by the strategy; "off" is none.
func (l limits) policiesOf(asked route, who caller, by ratelimit.Strategy) []*ratelimit.CompiledPolicy {
	switch {
	case by == off:
		return nil
	case l.taken[asked] && l.events != nil && who.May(scopeEvents):
		return []*ratelimit.CompiledPolicy{l.events[by]}
	case l.more[asked] && l.runs != nil:
		return []*ratelimit.CompiledPolicy{l.overall[by], l.runs[by]}
	}
	return []*ratelimit.CompiledPolicy{l.overall[by]}
}

// admit is the middleware. A faulty request is refused only after it was counted, so that no fault is a way around the
// limit.
func (l limits) admit(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		asked := route{c.Request().Method, c.Path()}
		if l.free[asked] {
			return next(c)
		}
		who := callerOf(c)
		by, notChosen := l.choose(c)
		policies := l.policiesOf(asked, who, by)
		decision, err := l.limiter.Check(c.Request().Context(), who.name, cost, policies...)
		if err != nil {
			return err
		}
		if len(decision.Verdicts) > 0 { // none if the caller chose no limit
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

// deniedError is a request that a limit does not hold.
type deniedError struct{ ratelimit.Decision }

func (deniedError) Error() string { return "a rate limit was reached" }

// The problem types of draft-ietf-httpapi-ratelimit-headers.
const (
	quotaExceeded   = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	reducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// problem names the policies that refused. Where one of them refuses because Redis does not answer, it is the service's
// fault and not the caller's.
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
	policies := []*ratelimit.CompiledPolicy{l.overall[l.strategy]}
	for _, more := range []policyByStrategy{l.runs, l.events} {
		if more != nil {
			policies = append(policies, more[l.strategy])
		}
	}
	if err := l.limiter.Reset(c.Request().Context(), who.name, policies...); err != nil {
		return problem{
			Status: http.StatusServiceUnavailable, Title: "Not reset", retryAfterSeconds: 1,
			Detail: "The store that counts requests does not answer.",
		}
	}
	return c.NoContent(http.StatusNoContent)
}
