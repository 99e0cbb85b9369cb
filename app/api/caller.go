package api

import (
	"github.com/labstack/echo/v4"

	"nervous/app/identity"
)

// caller is who asks, as far as the request can say.
type caller struct {
	identity.Caller

	// name is for whom a request counts: `user:SUB` by a valid token, else `address:HOST`. It is the limiter's only: it
	// goes into no answer, log, span or metric.
	name string

	// refusal is why no token speaks for the caller, identity.ErrMissing or one that is identity.ErrInvalid.
	refusal error
}

const callerKey = "caller"

// identify finds out who asks, once for all that follows. It refuses nobody: what is wrong with a token is said after
// the request was counted, so that trying tokens is limited like everything else.
func identify(tokens identity.Tokens) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			who := caller{}
			who.Caller, who.refusal = tokens.Verify(c.Request().Header.Get(echo.HeaderAuthorization))
			if who.refusal == nil {
				who.name = "user:" + who.User
			} else {
				who.name = "address:" + identity.Host(c.RealIP())
			}
			c.Set(callerKey, who)
			return next(c)
		}
	}
}

// callerOf returns whom identify has found, and panics where it was not asked.
func callerOf(c echo.Context) caller { return c.Get(callerKey).(caller) }
