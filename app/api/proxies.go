package api

import (
	"iter"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"
)

// addressBehind returns the address that a request comes from: the peer of the connection, or, where the peer is a
// trusted proxy, the address that this proxy appended to X-Forwarded-For. It follows at most as many proxies as hops
// says, and each must be within the networks. What stands in the header before that, the caller may have written; it
// changes nothing. X-Real-IP and Forwarded are not read.
//
// The networks alone are not enough: the address of a caller inside a trusted network looks like one more proxy, and
// echo.ExtractIPFromXFFHeader then returns what this caller wrote. Echo also refuses addresses with ports.
//
// Where the element of a proxy is missing, empty or no address, the proxy itself is the caller. An empty element is not
// skipped, because the one before it is the caller's.
func addressBehind(proxies []netip.Prefix, hops int) echo.IPExtractor {
	networks := make([]netip.Prefix, 0, len(proxies))
	for _, p := range proxies {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		networks = append(networks, p)
	}
	return func(r *http.Request) string {
		address, err := peerOf(r)
		if err != nil {
			return ""
		}
		followed := 0
		for element := range fromTheEnd(r.Header.Values(echo.HeaderXForwardedFor)) {
			trusted := slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(address) })
			if !trusted || followed == hops {
				break
			}
			appended, err := parseForwarded(element)
			if err != nil {
				break
			}
			address = appended
			followed++
		}
		return address.String()
	}
}

// peerOf returns the address of the connection's other end. A connection that is not TCP has none.
func peerOf(r *http.Request) (netip.Addr, error) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	address, err := netip.ParseAddr(host)
	return bare(address), err
}

// fromTheEnd yields the elements of a list header, the last one first.
func fromTheEnd(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range slices.Backward(lines) {
			for end := len(line); end >= 0; {
				comma := strings.LastIndexByte(line[:end], ',')
				if !yield(strings.TrimSpace(line[comma+1 : end])) {
					return
				}
				end = comma
			}
		}
	}
}

// parseForwarded reads 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1] and [2001:db8::1]:80.
func parseForwarded(element string) (netip.Addr, error) {
	if withPort, err := netip.ParseAddrPort(element); err == nil {
		return bare(withPort.Addr()), nil
	}
	if inner, ok := strings.CutPrefix(element, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			element = inner
		}
	}
	address, err := netip.ParseAddr(element)
	return bare(address), err
}

// bare makes one form of every address: IPv4 is not mapped to IPv6, and there is no zone, which would match no network
// and has a meaning only on the machine that wrote it.
func bare(address netip.Addr) netip.Addr { return address.Unmap().WithZone("") }
