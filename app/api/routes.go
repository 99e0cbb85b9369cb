// Package api is the service's HTTP surface: routes, the order of the middleware, and how errors become answers.
//
// It promises that every answer says what it cost and where it came from (Server-Timing, Cache-Status, traceresponse,
// X-Served-By), that every error is an application/problem+json of RFC 9457, and that a request which cannot be served
// in time is shed with 503 and Retry-After instead of queued.
package api

import (
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"nervous/app/identity"
	"nervous/app/reconcile"
	"nervous/app/trending"
)

// Dependencies is what the handlers need; all fields are required.
type Dependencies struct {
	Trending  *trending.Trending
	Reconcile *reconcile.Reconciler

	// Tokens says who calls, on the routes that ask for a scope.
	Tokens identity.Tokens

	// DefaultStrategy and ReconcileStrategy are used where the caller does not choose, or may not.
	DefaultStrategy   trending.Strategy
	ReconcileStrategy reconcile.Strategy

	// AllowStrategyOverride lets callers choose a strategy, make the memory cold, and undo what was reconciled. Only for a
	// demo.
	AllowStrategyOverride bool

	// Ready returns nil while the replica can serve.
	Ready func(context.Context) error

	// Replica names this process in X-Served-By.
	Replica string

	// RequestTimeout bounds each request.
	RequestTimeout time.Duration
}

// New returns the handler of the whole surface.
func New(d Dependencies) http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = answerProblem

	e.Use(
		// First: it names the route on the request that otelhttp holds. Once a later middleware has replaced the request,
		// to give it another context, that is out of reach.
		nameRoute,
		// Around everything that may call a store, and around Recover, so that a panic is accounted for too.
		account(d.Replica),
		middleware.Recover(),
		middleware.ContextTimeoutWithConfig(middleware.ContextTimeoutConfig{
			Timeout: d.RequestTimeout,
			// Left to itself it makes a bare 503 of any error that a deadline had a part in.
			ErrorHandler: func(err error, _ echo.Context) error { return err },
		}),
	)

	e.GET("/", index)
	e.GET("/healthz", alive)
	e.GET("/readyz", ready(d.Ready))

	posts := trendingHandler{d.Trending, d.DefaultStrategy, d.AllowStrategyOverride}
	e.GET("/posts/trending", posts.list)
	if d.AllowStrategyOverride {
		e.DELETE("/posts/trending", posts.forget)
	}

	payments := reconcileHandler{d.Reconcile, d.ReconcileStrategy, d.AllowStrategyOverride}
	mayReconcile := requireScope(d.Tokens, "reconcile")
	e.POST("/payments/:id/settled", payments.settled)
	e.POST("/reconcile", payments.start, mayReconcile)
	e.GET("/reconcile/:id", payments.show)
	e.DELETE("/reconcile/:id", payments.cancel, mayReconcile)
	if d.AllowStrategyOverride {
		e.GET("/payments", payments.truth)
		e.DELETE("/reconcile", payments.reset)
	}

	// Probes come every second from every side; their spans would bury the others.
	notAProbe := func(r *http.Request) bool { return r.URL.Path != "/healthz" && r.URL.Path != "/readyz" }
	return otelhttp.NewHandler(e, "http.server", otelhttp.WithFilter(notAProbe))
}
