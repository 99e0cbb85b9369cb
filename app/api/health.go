package api

import (
	"context"
	"net/http"

	"github.com/labstack/echo/v4"
)

// alive answers GET /healthz: the process runs. It asks nobody, because restarting a process mends no other.
func alive(c echo.Context) error { return c.JSON(http.StatusOK, map[string]string{"status": "alive"}) }

// ready answers GET /readyz: requests are welcome here.
func ready(check func(context.Context) error) echo.HandlerFunc {
	return func(c echo.Context) error {
		if err := check(c.Request().Context()); err != nil {
			return problem{
				Status: http.StatusServiceUnavailable, Title: "Not ready", Detail: err.Error(), retryAfterSeconds: 1,
			}
		}
		return c.JSON(http.StatusOK, map[string]string{"status": "ready"})
	}
}

// index answers GET /: where to go from here.
func index(c echo.Context) error {
	return c.JSON(http.StatusOK, map[string]string{
		"trending":  "/posts/trending",
		"settled":   "/payments/{id}/settled",
		"reconcile": "/reconcile",
		"alive":     "/healthz",
		"ready":     "/readyz",
	})
}
