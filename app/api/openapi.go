package api

import (
	_ "embed"
	"net/http"

	"github.com/labstack/echo/v4"
)

// openAPI describes the surface: every route, status and header.
//
//go:embed openapi.yaml
var openAPI []byte

// describeSurface answers GET /openapi.yaml.
func describeSurface(c echo.Context) error { return c.Blob(http.StatusOK, "application/yaml", openAPI) }
