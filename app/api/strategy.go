package api

import (
	"net/http"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// setStrategy labels the request's metrics and its span with the strategy that answers it.
func setStrategy(c echo.Context, strategy string) {
	label := attribute.String("strategy", strategy)
	trace.SpanFromContext(c.Request().Context()).SetAttributes(label)
	if labels, ok := otelhttp.LabelerFromContext(c.Request().Context()); ok {
		labels.Add(label)
	}
}

func unknownStrategy(field string, err error) problem {
	return problem{Status: http.StatusBadRequest, Title: "Unknown strategy", Detail: err.Error(), Field: field}
}

// notYoursToChoose refuses a strategy: a naive one is a way to overload Postgres from outside, or to ask more than
// other callers may.
func notYoursToChoose(field string) problem {
	return problem{
		Status: http.StatusForbidden, Title: "Strategy is not yours to choose", Field: field,
		Detail: "Only a demo lets callers choose, and only those with a loopback or private address.",
	}
}
