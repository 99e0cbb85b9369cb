package api

import (
	"net/http"
	"net/netip"

	"github.com/labstack/echo/v4"
)

// demo is whether callers may choose strategies and reset things. Even then only callers with a loopback or private
// address may: a naive strategy is a way to overload Postgres from outside, and the demo's secret is published.
type demo bool

// allows says whether the caller may choose a strategy.
func (d demo) allows(c echo.Context) bool { return bool(d) && isNear(c) }

// isNear says whether the caller's address is of this machine or of a private network.
func isNear(c echo.Context) bool {
	address, err := netip.ParseAddr(c.RealIP())
	return err == nil && (address.IsLoopback() || address.IsPrivate() || address.IsLinkLocalUnicast())
}

// privateOnly stands on the demo's routes.
func privateOnly(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if !isNear(c) {
			return problem{
				Status: http.StatusForbidden, Title: "Private address required",
				Detail: "A demo answers this to loopback and private addresses only.",
			}
		}
		return next(c)
	}
}
