package api

import (
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

// ledgerPatience is how long a ledger may take: it has spans exported first, and a collector may not answer.
const ledgerPatience = time.Second

// readLedger answers GET /ledger: what this replica's spans account for, for the audit. It asks no store.
func readLedger(read func(context.Context) any) echo.HandlerFunc {
	return func(c echo.Context) error {
		ctx, cancel := context.WithTimeout(c.Request().Context(), ledgerPatience)
		defer cancel()
		return c.JSON(http.StatusOK, read(ctx))
	}
}
