package api

import (
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"nervous/app/cache"
	"nervous/app/ratelimit"
	"nervous/app/roundtrips"
)

// MetricRoundTrips is a histogram {round_trip} of what one request cost a store, by store, http.route and strategy.
const MetricRoundTrips = "http.server.request.round_trips"

// cacheResultKey is where a handler leaves its cache.Result for the accounts.
const cacheResultKey = "cache.result"

// limitSourceKey is where the limit leaves its ratelimit.Source for the accounts.
const limitSourceKey = "ratelimit.source"

// nameRoute tells otelhttp the route by its pattern, which unlike the path is one of few. It reads that after the
// handler, for the metrics and the span's name; the span's attribute it would have needed before routing, so that is
// set here.
func nameRoute(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Request().Pattern = c.Path()
		trace.SpanFromContext(c.Request().Context()).SetAttributes(attribute.String("http.route", c.Path()))
		return next(c)
	}
}

// account opens a tally of round-trips for the request, and closes it into the answer's headers and the histogram.
func account(replica string) echo.MiddlewareFunc {
	histogram, _ := otel.Meter("nervous/app/api").Int64Histogram(MetricRoundTrips,
		metric.WithUnit("{round_trip}"), metric.WithDescription("Round-trips to a store that one request cost."))

	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			request := c.Request()
			tally := roundtrips.New(methodOf(request) + " " + c.Path())
			ctx := roundtrips.With(request.Context(), tally)
			c.SetRequest(request.WithContext(ctx))

			header := c.Response().Header()
			header.Set("X-Served-By", replica)
			if span := trace.SpanContextFromContext(ctx); span.IsValid() {
				header.Set("traceresponse", fmt.Sprintf("00-%s-%s-%s", span.TraceID(), span.SpanID(), span.TraceFlags()))
			}
			started := time.Now()
			c.Response().Before(func() { header.Set("Server-Timing", serverTiming(c, tally, time.Since(started))) })

			// Errors are answered here, not further out, so that their headers and costs are accounted for as well.
			if err := next(c); err != nil {
				c.Error(err)
			}
			for _, store := range []roundtrips.Store{roundtrips.Postgres, roundtrips.Redis} {
				histogram.Record(ctx, tally.Count(store), metric.WithAttributes(
					attribute.String("store", string(store)),
					attribute.String("http.route", c.Path()),
					attribute.String("strategy", tally.Strategy()),
				))
			}
			return nil
		}
	}
}

// methodOf is the request's method if it is one of HTTP's: whatever else a caller makes up must not become a series.
// The word for those is the semantic conventions'.
func methodOf(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return r.Method
	}
	return "_OTHER"
}

// serverTiming shows in a browser's developer tools, and tells load scripts, what the answer cost.
func serverTiming(c echo.Context, tally *roundtrips.Tally, took time.Duration) string {
	store := func(name string, s roundtrips.Store) string {
		return fmt.Sprintf(`%s;desc="%d round-trips";dur=%.3f`, name, tally.Count(s), milliseconds(tally.Time(s)))
	}
	timing := store("redis", roundtrips.Redis) + ", " + store("db", roundtrips.Postgres)
	if result, ok := c.Get(cacheResultKey).(cache.Result); ok {
		timing = fmt.Sprintf(`cache;desc="%s";dur=%.3f, %s`, result, milliseconds(took), timing)
	}
	if source, ok := c.Get(limitSourceKey).(ratelimit.Source); ok {
		timing = fmt.Sprintf(`limit;desc="%s", %s`, source, timing)
	}
	return timing
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
