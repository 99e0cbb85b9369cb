package identity

import "net/netip"

// Host is the name by which a caller without a token is limited: an IPv4 address, or the /64 of an IPv6 address,
// because a subscriber commonly has all 2^64 addresses of it. An IPv4-mapped IPv6 address is the IPv4 address, and a
// zone is dropped. All text that is no address is the one host "unknown", so that a caller cannot gain by hiding its
// address.
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
