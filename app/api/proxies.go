package api

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"
)

// addressBehind returns the address that a request comes from: the peer's, or, where the peer is a trusted proxy, the
// one that it wrote to X-Forwarded-For. The header is read from its end, where proxies append, past at most as many
// proxies as hops says, each within the given networks. What stands before that, the caller may have written. X-Real-IP
// and Forwarded are not read.
//
// Without hops the header is read past every proxy within the networks. A caller inside one of them could then write
// the address that it wants to be.
//
// An element may have a port, as some load balancers write it. Where an element is no address, the proxy that wrote it
// is the caller.
func addressBehind(proxies []netip.Prefix, hops int) echo.IPExtractor {
	trusted := make([]netip.Prefix, 0, len(proxies))
	for _, p := range proxies {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		trusted = append(trusted, p)
	}
	return func(r *http.Request) string {
		shown, address := peerOf(r.RemoteAddr)
		forwarded := r.Header.Values(echo.HeaderXForwardedFor)
		for hop := 1; hops == 0 || hop <= hops; hop++ {
			if !slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(address) }) {
				break
			}
			var element string
			if element, forwarded = lastElement(forwarded); element == "" {
				break
			}
			next, err := parseForwarded(element)
			if err != nil {
				break
			}
			shown, address = next.String(), next
		}
		return shown
	}
}

// peerOf reads a connection's remote address: host:port, or something else where it is no TCP connection.
func peerOf(remote string) (shown string, address netip.Addr) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	address, err = netip.ParseAddr(host)
	if err != nil {
		return "", netip.Addr{}
	}
	address = address.Unmap()
	return address.String(), address
}

// lastElement cuts the last element off the lines of a list header. It is empty where the list is.
func lastElement(lines []string) (element string, rest []string) {
	if len(lines) == 0 {
		return "", nil
	}
	last := len(lines) - 1
	before, element, found := cutLast(lines[last], ",")
	if !found {
		return strings.TrimSpace(lines[last]), lines[:last]
	}
	return strings.TrimSpace(element), append(slices.Clone(lines[:last]), before)
}

func cutLast(s, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+len(separator):], true
	}
	return s, "", false
}

// parseForwarded reads 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1] or [2001:db8::1]:80. A zone means something
// to the proxy alone and is dropped.
func parseForwarded(element string) (netip.Addr, error) {
	address, err := netip.ParseAddr(element)
	if err != nil {
		if inner, bracketed := strings.CutPrefix(element, "["); bracketed && strings.HasSuffix(inner, "]") {
			address, err = netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		} else {
			var withPort netip.AddrPort
			withPort, err = netip.ParseAddrPort(element)
			address = withPort.Addr()
		}
	}
	return address.Unmap().WithZone(""), err
}
