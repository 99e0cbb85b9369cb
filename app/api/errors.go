package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/trace"

	"nervous/app/cache"
	"nervous/app/identity"
	"nervous/app/reconcile"
	"nervous/app/trending"
)

// problem is an answer of RFC 9457. As an error it travels from where the fault is known to answerProblem.
type problem struct {
	// Type is a URI for those that others define; without one the status says it all.
	Type   string `json:"type,omitempty"`
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail,omitempty"`
	// Field names the part of the request that is at fault.
	Field string `json:"field,omitempty"`
	// ViolatedPolicies are the rate limits that the request would have broken.
	ViolatedPolicies []string `json:"violated-policies,omitempty"`
	// TraceID leads to the request's trace.
	TraceID string `json:"trace_id,omitempty"`

	retryAfterSeconds int
	// challenge says in WWW-Authenticate what to show instead (RFC 6750).
	challenge string
}

func (p problem) Error() string { return p.Title + ": " + p.Detail }

// clientClosedRequest is nginx's status for a caller who left; nobody reads it but the telemetry.
const clientClosedRequest = 499

// problemOf is the one table from errors to answers. What is not in it is our fault, and says nothing about our inside.
func problemOf(err error) problem {
	if p, ok := errors.AsType[problem](err); ok {
		return p
	}
	if e, ok := errors.AsType[*echo.HTTPError](err); ok {
		return problem{Status: e.Code, Title: http.StatusText(e.Code)}
	}
	if denied, ok := errors.AsType[deniedError](err); ok {
		return denied.problem()
	}
	if running, ok := errors.AsType[reconcile.RunningError](err); ok {
		return problem{
			Status: http.StatusConflict, Title: "A run goes on", Detail: "It is " + locationOf(running.ID) + ".",
		}
	}
	switch {
	case errors.Is(err, reconcile.ErrNotFound):
		return problem{Status: http.StatusNotFound, Title: "No such run", Field: "id"}
	case errors.Is(err, reconcile.ErrUnavailable):
		return problem{
			Status: http.StatusServiceUnavailable, Title: "Event not taken", retryAfterSeconds: 1,
			Detail: "Neither Redis nor, within its bound, Postgres takes it now. Send it again.",
		}
	case errors.Is(err, identity.ErrMissing):
		return problem{
			Status: http.StatusUnauthorized, Title: "Token required", Detail: err.Error(), Field: "authorization",
			challenge: "Bearer",
		}
	case errors.Is(err, identity.ErrInvalid):
		return problem{
			Status: http.StatusUnauthorized, Title: "Token refused", Detail: err.Error(), Field: "authorization",
			challenge: `Bearer error="invalid_token"`,
		}
	case errors.Is(err, trending.ErrBusy):
		return problem{
			Status: http.StatusServiceUnavailable, Title: "Overloaded", retryAfterSeconds: 1,
			Detail: "No database connection came free in time.",
		}
	case errors.Is(err, cache.ErrCooldown):
		return problem{
			Status: http.StatusServiceUnavailable, Title: "Cooling down", retryAfterSeconds: 1,
			Detail: "The answer could not be computed a moment ago and is not tried again yet.",
		}
	case errors.Is(err, context.DeadlineExceeded):
		return problem{
			Status: http.StatusServiceUnavailable, Title: "Timed out", retryAfterSeconds: 2,
			Detail: "The answer took longer than a request may take.",
		}
	case errors.Is(err, context.Canceled):
		return problem{Status: clientClosedRequest, Title: "Client closed request"}
	}
	if p, ok := fromStore(err); ok {
		return p
	}
	return problem{Status: http.StatusInternalServerError, Title: http.StatusText(http.StatusInternalServerError)}
}

// answerProblem is Echo's error handler: every error of every handler ends here, once.
func answerProblem(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	ctx := c.Request().Context()
	p := problemOf(err)
	if p.Status == http.StatusInternalServerError {
		slog.ErrorContext(ctx, "request failed", "route", c.Path(), "error", err)
	}
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && schemaIsMissing(refused.Code) {
		slog.ErrorContext(ctx, "the database lacks a part of the schema: run `app migrate`", "route", c.Path(), "error", err)
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		p.TraceID = span.TraceID().String()
	}
	if p.retryAfterSeconds > 0 {
		c.Response().Header().Set("Retry-After", strconv.Itoa(p.retryAfterSeconds))
	}
	if p.challenge != "" {
		c.Response().Header().Set("WWW-Authenticate", p.challenge)
	}
	body, err := json.Marshal(p)
	if err == nil {
		err = c.Blob(p.Status, "application/problem+json", body)
	}
	if err != nil {
		slog.WarnContext(ctx, "error could not be answered", "route", c.Path(), "error", err)
	}
}
