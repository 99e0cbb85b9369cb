package identity

import "net/netip"

// Host says for whom an IP address stands, where no token says who calls: for itself, or for an IPv6 address its /64,
// because whoever has one address of that commonly has all 2^64. An IPv4 address in the clothes of IPv6 is the same
// host, and a zone makes no other. Whatever is no address stands for one and the same host, "unknown": who can hide
// where a request comes from must not gain by it.
func Host(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return "unknown"
	}
	if ip = ip.Unmap(); ip.Is4() {
		return ip.String()
	}
	network, _ := ip.Prefix(64) // which every IPv6 address has
	return network.String()
}
