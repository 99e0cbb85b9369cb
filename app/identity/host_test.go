package identity_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/app/identity"
)

func TestHostsAreToldApartAsFarAsAddressesTell(t *testing.T) {
	t.Parallel()
	for address, host := range map[string]string{
		"192.0.2.1":                  "192.0.2.1",
		"::ffff:192.0.2.1":           "192.0.2.1",
		"::ffff:c000:201":            "192.0.2.1",
		"::ffff:192.0.2.1%eth0":      "192.0.2.1",
		"2001:db8::1":                "2001:db8::/64",
		"2001:db8::ffff:0:0:1":       "2001:db8::/64",
		"2001:DB8:0:0:0::2":          "2001:db8::/64",
		"2001:db8:0:1::1":            "2001:db8:0:1::/64",
		"fe80::1%eth0":               "fe80::/64",
		"fe80::2%eth1":               "fe80::/64",
		"":                           "unknown",
		"@":                          "unknown",
		"192.0.2.1:80":               "unknown",
		"[2001:db8::1]":              "unknown",
		"192.0.2.01":                 "unknown",
		"localhost":                  "unknown",
		"192.0.2.1\r\nuser:42":       "unknown",
		"2001:db8::1/64":             "unknown",
		"2001:db8::1%" + "{user:42}": "2001:db8::/64",
	} {
		require.Equal(t, host, identity.Host(address), "%q", address)
	}
}

// FuzzHost looks for a second name that a host could take.
func FuzzHost(f *testing.F) {
	for _, seed := range []string{"192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1%eth0", "[::1]:80", "", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		host := identity.Host(address)
		if host == "unknown" {
			return
		}
		ip, err := netip.ParseAddr(address)
		require.NoError(t, err)
		if single, err := netip.ParseAddr(host); err == nil {
			require.True(t, single.Is4())
			require.Equal(t, ip.Unmap(), single)
			return
		}
		network, err := netip.ParsePrefix(host)
		require.NoError(t, err)
		require.Equal(t, netip.PrefixFrom(network.Masked().Addr(), 64).String(), host)
		require.True(t, network.Contains(ip.WithZone("")))
	})
}
