package api

import (
	"net/http"

	"github.com/labstack/echo/v4"
)

// index answers GET /: where to go from here.
func index(c echo.Context) error {
	return c.JSON(http.StatusOK, map[string]string{
		"trending":    "/posts/trending",
		"settled":     "/payments/{id}/settled",
		"reconcile":   "/reconcile",
		"description": "/openapi.yaml",
		"alive":       "/healthz",
		"ready":       "/readyz",
	})
}
