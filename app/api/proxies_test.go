package api

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	client     = "203.0.113.7"
	forged     = "198.51.100.9"
	proxy      = "10.0.0.1"
	outerProxy = "172.16.5.5"
	inside     = "10.7.7.7" // a caller within a trusted network
)

var trustedNetworks = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.5.5/32"), netip.MustParsePrefix("fd00::/8"),
	netip.MustParsePrefix("fe80::/10"),
}

func TestAddressBehind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, peer string
		hops       int
		forwarded  []string // one a header line
		want       string
	}{
		{"no header", proxy, 1, nil, proxy},
		{"one proxy", proxy, 1, []string{client}, client},
		{"one proxy, forged element before", proxy, 1, []string{forged + ", " + client}, client},
		{"one proxy, forged line before", proxy, 1, []string{forged, client}, client},
		{"one proxy, forged proxy before", proxy, 1, []string{forged + ", 10.9.9.9, " + client}, client},
		{"one proxy, garbage before", proxy, 1, []string{"garbage, ,,\x00, " + client}, client},
		{"spaces and tabs", proxy, 1, []string{"  " + forged + "\t,\t" + client + " "}, client},

		{"caller within a trusted network", proxy, 1, []string{inside}, inside},
		{"caller within a trusted network, forged element", proxy, 1, []string{forged + ", " + inside}, inside},
		{"caller within a trusted network, forged line", proxy, 1, []string{forged, inside}, inside},
		{"caller within a trusted network, forged proxy", proxy, 1, []string{forged, outerProxy, inside}, inside},
		{"caller within a trusted network, two hops", proxy, 2, []string{forged + "," + inside + "," + outerProxy}, inside},

		{"two proxies, one line", proxy, 2, []string{client + ", " + outerProxy}, client},
		{"two proxies, a line each", proxy, 2, []string{client, outerProxy}, client},
		{"two proxies, forged element before", proxy, 2, []string{forged + "," + client + "," + outerProxy}, client},
		{"two proxies, outer one not passed", proxy, 2, []string{forged + ", " + client}, client},
		{"two proxies, outer one sends nothing", proxy, 2, []string{"", outerProxy}, outerProxy},
		{"two proxies, outer one sends garbage", proxy, 2, []string{forged + ", garbage, " + outerProxy}, outerProxy},
		{"two proxies, outer one not counted", proxy, 1, []string{client + ", " + outerProxy}, outerProxy},
		{"fewer elements than hops", proxy, 5, []string{outerProxy}, outerProxy},
		{"many elements", proxy, 1, []string{strings.Repeat(proxy+",", 10_000) + client}, client},

		{"untrusted peer", client, 1, []string{forged}, client},
		{"untrusted peer on the loopback", "127.0.0.1", 1, []string{forged}, "127.0.0.1"},
		{"untrusted peer in a private network", "192.168.0.1", 1, []string{forged}, "192.168.0.1"},
		{"untrusted peer on the link", "169.254.0.1", 1, []string{forged}, "169.254.0.1"},
		{"untrusted peer, IPv4 mapped to IPv6", "::ffff:" + client, 1, []string{forged}, client},

		{"garbage from the proxy", proxy, 1, []string{forged + ", garbage"}, proxy},
		{"empty header from the proxy", proxy, 1, []string{""}, proxy},
		{"empty element from the proxy", proxy, 1, []string{forged + ","}, proxy},
		{"empty line from the proxy", proxy, 1, []string{forged, " "}, proxy},
		{"address with another text behind", proxy, 1, []string{client + " x"}, proxy},
		{"network instead of an address", proxy, 1, []string{client + "/32"}, proxy},
		{"octet with a leading zero", proxy, 1, []string{"203.0.113.07"}, proxy},
		{"two addresses without a comma", proxy, 1, []string{forged + " " + client}, proxy},

		{"port", proxy, 1, []string{client + ":4711"}, client},
		{"ports of two proxies", proxy, 2, []string{"[2001:db8::7]:80, " + outerProxy + ":443"}, "2001:db8::7"},
		{"port out of range", proxy, 1, []string{client + ":65536"}, proxy},
		{"port of letters", proxy, 1, []string{client + ":http"}, proxy},
		{"port missing behind the colon", proxy, 1, []string{client + ":"}, proxy},

		{"IPv6", "fd00::1", 1, []string{"2001:DB8:0::7"}, "2001:db8::7"},
		{"IPv6 in brackets", "fd00::1", 1, []string{"[2001:db8::7]"}, "2001:db8::7"},
		{"IPv6 with a port", "fd00::1", 1, []string{"[2001:db8::7]:4711"}, "2001:db8::7"},
		{"IPv6 without the closing bracket", "fd00::1", 1, []string{"[2001:db8::7"}, "fd00::1"},
		{"IPv6 without the opening bracket", "fd00::1", 1, []string{"2001:db8::7]:4711"}, "fd00::1"},
		{"IPv6 with a zone", "fd00::1", 1, []string{"fe80::7%eth0"}, "fe80::7"},
		{"IPv6 with a zone and a port", "fd00::1", 1, []string{"[fe80::7%eth0]:4711"}, "fe80::7"},
		{"proxy with a zone", "fe80::1%eth0", 1, []string{client}, client},
		{"IPv4 mapped to IPv6", "::ffff:" + proxy, 1, []string{"::ffff:" + client}, client},
		{"IPv4 mapped to IPv6 with a port", "::ffff:" + proxy, 1, []string{"[::ffff:" + client + "]:4711"}, client},
		{"IPv4 mapped to IPv6, two proxies", proxy, 2, []string{client + ", ::ffff:" + outerProxy}, client},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			peer := net.JoinHostPort(c.peer, "1234")
			require.Equal(t, c.want, addressBehind(trustedNetworks, c.hops)(forwardedRequest(t, peer, c.forwarded...)))
		})
	}
}

func TestAddressBehind_Networks(t *testing.T) {
	t.Parallel()
	request := forwardedRequest(t, proxy+":1234", client)
	for network, want := range map[string]string{
		"10.0.0.0/8": client, "10.1.2.3/8": client, "10.0.0.1/32": client, "0.0.0.0/0": client,
		"::ffff:10.0.0.0/104": client,
		"10.0.0.2/32":         proxy, "fd00::/8": proxy, "::/0": proxy, "::ffff:10.0.0.0/95": proxy,
	} {
		require.Equal(t, want, addressBehind([]netip.Prefix{netip.MustParsePrefix(network)}, 1)(request), network)
	}
	require.Equal(t, proxy, addressBehind(nil, 1)(request), "without networks the header is not read")
}

func TestAddressBehind_Peer(t *testing.T) {
	t.Parallel()
	for peer, want := range map[string]string{
		client + ":1234": client, client: client, "[2001:db8::7]:1234": "2001:db8::7", "2001:db8::7": "2001:db8::7",
		"@": "", "": "", "localhost:1234": "",
	} {
		require.Equal(t, want, addressBehind(trustedNetworks, 1)(forwardedRequest(t, peer, forged)), "%q", peer)
	}
}

// FuzzAddressBehind sends a request with any X-Forwarded-For through one to three trusted proxies, each of which
// appends in one of the forms that proxies use. The answer must be the address of the caller, which may be within a
// trusted network too.
func FuzzAddressBehind(f *testing.F) {
	f.Add("", "", []byte{203, 0, 113, 7}, uint8(0), uint8(0))
	f.Add(forged, "10.9.9.9", []byte{10, 7, 7, 7}, uint8(1), uint8(0b101))
	f.Add("garbage, ,,\x00", ",", []byte{172, 16, 5, 5}, uint8(2), uint8(0b11_1010))
	f.Add("[::1]:1, ", " ", []byte("\xfd\x00............\x00\x01"), uint8(2), uint8(0b11_1111))
	f.Fuzz(func(t *testing.T, line, another string, caller []byte, proxies, forms uint8) {
		address, ok := netip.AddrFromSlice(caller)
		if !ok {
			return // 4 or 16 bytes are an address
		}
		hops := int(proxies%3) + 1
		lines, from := []string{line, another}, address
		for range hops {
			element := from.String()
			if forms&1 != 0 {
				element = netip.AddrPortFrom(from, 4711).String()
			}
			if last := len(lines) - 1; forms&2 != 0 {
				lines[last] += ", " + element
			} else {
				lines = append(lines, element)
			}
			forms, from = forms>>2, netip.MustParseAddr(outerProxy)
		}
		want := address.Unmap().String()
		require.Equal(t, want, addressBehind(trustedNetworks, hops)(forwardedRequest(t, proxy+":1234", lines...)))
	})
}

// forwardedRequest has the lines of X-Forwarded-For, and headers that must not be read.
func forwardedRequest(t testing.TB, peer string, forwarded ...string) *http.Request {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	require.NoError(t, err)
	request.RemoteAddr = peer
	for _, line := range forwarded {
		request.Header.Add("X-Forwarded-For", line)
	}
	request.Header.Set("X-Real-Ip", forged)
	request.Header.Set("Forwarded", "for="+forged)
	request.Header.Set("True-Client-Ip", forged)
	return request
}
