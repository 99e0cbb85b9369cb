package api

import (
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"nervous/app/reconcile"
)

type eventAnswer struct {
	Payment int64          `json:"payment"`
	Path    reconcile.Path `json:"path"`
}

// settled answers POST /payments/:id/settled, one event a request, as a payment provider would call. It is open: an
// event only asks for a look at a payment, and what is marked is what agrees in Postgres.
func (h reconcileHandler) settled(c echo.Context) error {
	payment, err := strconv.ParseInt(c.Param("id"), 10, 64)
	if err != nil || payment < 1 {
		return problem{
			Status: http.StatusBadRequest, Title: "Not a payment's id", Field: "id", Detail: "It must be a positive integer.",
		}
	}
	path, err := h.reconciler.Settled(c.Request().Context(), payment)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusAccepted, eventAnswer{payment, path})
}

// truth answers GET /payments: what Postgres knows, counted now. It reads both tables whole, so it is for a demo only.
func (h reconcileHandler) truth(c echo.Context) error {
	truth, err := h.reconciler.Truth(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, truth)
}
