package api

import (
	"context"
	"net/http"

	"github.com/labstack/echo/v4"
)

// Health is what a replica can do now. It is all that probes are told: not which store is away, or where it is.
type Health string

const (
	// Starting is until the schema of this build was seen. Not ready.
	Starting Health = "starting"
	// Ready is for every request.
	Ready Health = "ready"
	// Degraded is while Postgres is away. What is cached is served, and live events are buffered, so the replica stays
	// ready.
	Degraded Health = "degraded"
	// Unavailable is while Postgres and Redis are away. Not ready.
	Unavailable Health = "unavailable"
	// Draining is when the replica is about to end. Not ready, but what still comes is served.
	Draining Health = "draining"
)

// Welcome says whether requests should be sent here.
func (h Health) Welcome() bool { return h == Ready || h == Degraded }

type healthAnswer struct {
	Status Health `json:"status"`
}

// alive answers GET /healthz: the process runs. It asks no store, because restarting a process mends none.
func alive(c echo.Context) error { return c.JSON(http.StatusOK, healthAnswer{"alive"}) }

// ready answers GET /readyz.
func ready(now func() Health) echo.HandlerFunc {
	return func(c echo.Context) error {
		state := now()
		if !state.Welcome() {
			return problem{
				Status: http.StatusServiceUnavailable, Title: "Not ready", Detail: "The replica is " + string(state) + ".",
				retryAfterSeconds: 1,
			}
		}
		return c.JSON(http.StatusOK, healthAnswer{state})
	}
}

// NewAdmin returns the handler of the listener that only probes and operators reach: no limit, no token. A nil ledger
// is not shown.
func NewAdmin(now func() Health, ledger func(context.Context) any) http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = answerProblem
	e.IPExtractor = echo.ExtractIPDirect()
	reads(e, "/healthz", alive)
	reads(e, "/readyz", ready(now))
	if ledger != nil {
		reads(e, "/ledger", readLedger(ledger), privateOnly)
	}
	return e
}

// reads registers a handler for GET and for HEAD, which is GET without the body.
func reads(e *echo.Echo, path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) []*echo.Route {
	return []*echo.Route{e.GET(path, h, m...), e.HEAD(path, h, m...)}
}
