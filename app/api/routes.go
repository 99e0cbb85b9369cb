// Package api is the service's HTTP surface: routes, the order of the middleware, and how errors become answers.
//
// It promises that every answer says what it cost and where it came from (Server-Timing, Cache-Status, traceresponse,
// X-Served-By), that every error is an application/problem+json of RFC 9457, and that a request which cannot be served
// in time is shed with 503 and Retry-After instead of queued.
//
// It promises too that nobody asks for more than the limits hold: a request is counted for the user of its token, or
// without a valid one for the address that it comes from, before anything else is done for it. Answers say what is left
// (RateLimit-Policy, RateLimit); one too many is answered by 429, which says when the next will be let through
// (Retry-After), and costs no round-trip to Postgres. What is wrong with a request is said only once it was counted.
//
// The address that a request comes from is read from X-Forwarded-For, as far as trusted proxies wrote it: TrustedHops
// elements from its end. A client in a trusted network that reaches the service without passing all of these proxies
// can claim any address, and so has any number of limits. Callers without a token that share an address share a limit.
package api

import (
	"cmp"
	"net/http"
	"net/netip"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"nervous/app/identity"
	"nervous/app/ratelimit"
	"nervous/app/reconcile"
	"nervous/app/trending"
)

// Dependencies is what the handlers need; all fields are required but the proxies and the limit of Runs.
type Dependencies struct {
	Trending  *trending.Trending
	Reconcile *reconcile.Reconciler

	// Limiter counts requests by policies of one strategy: Overall all that a caller makes, and Runs those that start a
	// run. Events counts, in place of Overall, the live events of callers whose token has the scope `events`. Runs and
	// Events may be without a Limit, and are none then.
	Limiter               *ratelimit.Limiter
	Overall, Runs, Events ratelimit.Policy

	// Tokens says who calls.
	Tokens identity.Tokens

	// TrustedProxies are the networks of the proxies whose X-Forwarded-For is read, and TrustedHops is how many proxies a
	// request passes; 0 means 1.
	TrustedProxies []netip.Prefix
	TrustedHops    int

	// DefaultStrategy and ReconcileStrategy are used where the caller does not choose, or may not.
	DefaultStrategy   trending.Strategy
	ReconcileStrategy reconcile.Strategy

	// Demo lets callers with a loopback or private address choose a strategy, of the limits too, make the memory cold, and
	// undo what was reconciled or counted.
	Demo bool

	// Health returns what the replica can do now, at once.
	Health func() Health

	// Replica names this process in X-Served-By.
	Replica string

	// RequestTimeout bounds each request.
	RequestTimeout time.Duration
}

// New returns the handler of the whole surface. The error lists the faults of the policies.
func New(d Dependencies) (http.Handler, error) {
	limits, err := newLimits(d)
	if err != nil {
		return nil, err
	}
	e := echo.New()
	e.HTTPErrorHandler = answerProblem
	e.IPExtractor = addressBehind(d.TrustedProxies, cmp.Or(d.TrustedHops, 1))

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
		// Before the limit, because that is one for each caller. It asks no store, and refuses nobody.
		identify(d.Tokens),
		// Last, because it calls a store: it is accounted for and bounded in time. And before every handler and whatever
		// stands on a route, for what is not to be done must not be begun. It is around 404 and 405 as well.
		limits.admit,
	)

	reads(e, "/", index)
	reads(e, "/openapi.yaml", describeSurface)

	// A probe that is denied would take a healthy replica out of service.
	limits.exempt(reads(e, "/healthz", alive)...)
	limits.exempt(reads(e, "/readyz", ready(d.Health))...)
	if d.Demo {
		// Exempt, so an exhausted client can reset its quota.
		limits.exempt(e.DELETE("/ratelimit", limits.reset, privateOnly))
	}

	posts := trendingHandler{d.Trending, d.DefaultStrategy, demo(d.Demo)}
	reads(e, "/posts/trending", posts.list)
	if d.Demo {
		e.DELETE("/posts/trending", posts.forget, privateOnly)
	}

	payments := reconcileHandler{d.Reconcile, d.ReconcileStrategy, demo(d.Demo)}
	mayReconcile := requireScope("reconcile")
	limits.takeEvents(
		e.POST("/payments/:id/settled", payments.settled),
		e.POST("/payments/settled", payments.settledBatch),
	)
	limits.alsoRuns(e.POST("/reconcile", payments.start, mayReconcile))
	reads(e, "/reconcile/:id", payments.show)
	e.DELETE("/reconcile/:id", payments.cancel, mayReconcile)
	if d.Demo {
		reads(e, "/payments", payments.truth, privateOnly)
		e.DELETE("/reconcile", payments.reset, privateOnly, mayReconcile)
	}

	// Probes come every second from every side; their spans would bury the others.
	notAProbe := func(r *http.Request) bool { return r.URL.Path != "/healthz" && r.URL.Path != "/readyz" }
	// An address is whom a request counts for. The instrumentation would write it into the span, and believe whatever
	// X-Forwarded-For says; the last to set an attribute wins.
	anonymous := trace.WithAttributes(
		attribute.String("client.address", ""), attribute.String("network.peer.address", ""))
	return surface{
		otelhttp.NewHandler(e, "http.server", otelhttp.WithFilter(notAProbe), otelhttp.WithSpanOptions(anonymous)), e,
	}, nil
}

// surface is the handler, and knows its routes.
type surface struct {
	http.Handler
	routes *echo.Echo
}
