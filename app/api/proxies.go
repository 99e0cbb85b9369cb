package api

import (
	"net"
	"net/netip"

	"github.com/labstack/echo/v4"
)

// addressBehind finds the address that a request comes from: who connects, or, where that is a proxy of ours, whom
// X-Forwarded-For names. That header is read from its end, where our proxies add to it, and only as far as they go;
// what stands before that, the caller may have written. X-Real-IP and Forwarded are not believed at all.
//
// What a proxy of ours adds must be a bare address: with a port behind it the proxy itself counts as the caller, and
// all who come through it share one limit.
func addressBehind(proxies []netip.Prefix) echo.IPExtractor {
	if len(proxies) == 0 {
		return echo.ExtractIPDirect()
	}
	// By default Echo believes whoever comes from the loopback or a private network.
	trusted := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, p := range proxies {
		trusted = append(trusted, echo.TrustIPRange(&net.IPNet{
			IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
		}))
	}
	return echo.ExtractIPFromXFFHeader(trusted...)
}
