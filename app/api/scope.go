package api

import (
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"
)

// requireScope lets a request through that shows a token with the scope. It stands on a route and not around all of
// them, because most of the surface is open.
func requireScope(scope string) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			who := callerOf(c)
			if who.refusal != nil {
				return who.refusal
			}
			if !who.May(scope) {
				return problem{
					Status: http.StatusForbidden, Title: "Token does not allow this", Field: "authorization",
					Detail:    fmt.Sprintf("It takes a token with the scope %q.", scope),
					challenge: fmt.Sprintf(`Bearer error="insufficient_scope", scope="%s"`, scope),
				}
			}
			return next(c)
		}
	}
}
