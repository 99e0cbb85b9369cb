package api

import (
	"errors"
	"fmt"
	"io"
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

// batch is the body of POST /payments/settled.
type batch struct {
	Payments []int64 `json:"payments"`
}

type batchAnswer struct {
	Accepted int            `json:"accepted"`
	Path     reconcile.Path `json:"path"`
}

const (
	// maxBatch is how many events one request may have. They are one round-trip to Redis, in which nothing else is done
	// meanwhile.
	maxBatch = 1000
	// maxBatchBytes is more than that many take, with the longest ids and some space.
	maxBatchBytes = 32 << 10
)

// settledBatch answers POST /payments/settled: many events a request. It accepts all of them or refuses the request;
// after a refusal some may have been taken, so the caller sends all of them again.
func (h reconcileHandler) settledBatch(c echo.Context) error {
	var b batch
	if err := decodeStrictly(c, maxBatchBytes, &b); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(b.Payments) == 0 || len(b.Payments) > maxBatch {
		return problem{
			Status: http.StatusBadRequest, Title: "Wrong number of payments", Field: "payments",
			Detail: fmt.Sprintf("There are %d and must be from 1 to %d.", len(b.Payments), maxBatch),
		}
	}
	for i, id := range b.Payments {
		if id < 1 {
			return problem{
				Status: http.StatusBadRequest, Title: "Not a payment's id", Field: fmt.Sprintf("payments[%d]", i),
				Detail: fmt.Sprintf("It is %d and must be a positive integer.", id),
			}
		}
	}
	path, err := h.reconciler.Settled(c.Request().Context(), b.Payments...)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusAccepted, batchAnswer{len(b.Payments), path})
}

// truth answers GET /payments: what Postgres knows, counted now. It reads both tables whole, so it is for a demo only.
func (h reconcileHandler) truth(c echo.Context) error {
	truth, err := h.reconciler.Truth(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, truth)
}
