package api

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	client    = "203.0.113.7"
	another   = "198.51.100.9"
	proxy     = "10.0.0.1"
	frontDoor = "172.16.5.5"
)

var ours = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.5.5/32"), netip.MustParsePrefix("fd00::/8"),
}

// Without a number of hops, every proxy within the networks is believed.
func TestAddressBehind_Networks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, connects string
		trusted        []netip.Prefix
		forwarded      []string // one a line
		want           string
	}{
		{"nobody in between", client + ":1234", ours, nil, client},
		{"a proxy of ours", proxy + ":1234", ours, []string{client}, client},
		{"two of ours", proxy + ":1234", ours, []string{client + ", " + frontDoor}, client},
		{"two lines", proxy + ":1234", ours, []string{client, frontDoor}, client},
		{"two lines, the first one forged", proxy + ":1234", ours, []string{another, client}, client},
		{"spaces", proxy + ":1234", ours, []string{"  " + client + "\t,\t" + frontDoor + " "}, client},

		{"nobody is trusted", proxy + ":1234", nil, []string{client}, proxy},
		{"nobody is trusted, on the loopback", "127.0.0.1:1234", nil, []string{client}, "127.0.0.1"},
		{"a liar", client + ":1234", ours, []string{another}, client},
		{"a liar on the loopback, which is not ours here", "127.0.0.1:1234", ours, []string{another}, "127.0.0.1"},
		{"a liar in another private network", "192.168.0.1:1234", ours, []string{another}, "192.168.0.1"},
		{"a liar on the link", "169.254.0.1:1234", ours, []string{another}, "169.254.0.1"},
		{"a liar behind a proxy", proxy + ":1234", ours, []string{another + ", " + client}, client},
		{"a liar who claims to be a proxy", proxy + ":1234", ours, []string{another + ", 10.9.9.9, " + client}, client},
		{"a liar with garbage", proxy + ":1234", ours, []string{"garbage, ,,\x00, " + client}, client},

		{"garbage from a proxy", proxy + ":1234", ours, []string{client + ", garbage"}, proxy},
		{"nothing from a proxy", proxy + ":1234", ours, []string{""}, proxy},
		{"a comma from a proxy", proxy + ":1234", ours, []string{client + ","}, proxy},
		{"a port behind the address", proxy + ":1234", ours, []string{client + ":5678"}, client},
		{"a port that is none", proxy + ":1234", ours, []string{client + ":x"}, proxy},
		{"only proxies", proxy + ":1234", ours, []string{"10.0.0.2, " + frontDoor}, "10.0.0.2"},
		{"more than anybody needs", proxy + ":1234", ours, []string{client + strings.Repeat(", "+proxy, 10_000)}, client},

		{"IPv6", "[fd00::1]:1234", ours, []string{"2001:db8::7"}, "2001:db8::7"},
		{"IPv6 in brackets", "[fd00::1]:1234", ours, []string{"[2001:db8::7]"}, "2001:db8::7"},
		{"IPv6 with a port", "[fd00::1]:1234", ours, []string{"[2001:db8::7]:5678"}, "2001:db8::7"},
		{"IPv6 with a zone", "[fd00::1]:1234", ours, []string{"fe80::7%eth0"}, "fe80::7"},
		{"IPv6 with half a bracket", "[fd00::1]:1234", ours, []string{"[2001:db8::7"}, "fd00::1"},
		{"a proxy with a zone is not known", "[fd00::1%eth0]:1234", ours, []string{another}, "fd00::1%eth0"},
		{"IPv4 as IPv6", "[::ffff:10.0.0.1]:1234", ours, []string{"::ffff:203.0.113.7"}, client},
		{"a liar as IPv6", "[::ffff:203.0.113.7]:1234", ours, []string{another}, client},
		{"a network in IPv6's clothes", proxy + ":1234", []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")},
			[]string{client}, client},
		{"a network that is named by one of it", proxy + ":1234", []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8")},
			[]string{client}, client},

		{"no address at all", "@", ours, []string{another}, ""},
		{"no port", client, ours, []string{another}, client},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, addressBehind(c.trusted, 0)(forwardedRequest(t, c.connects, c.forwarded...)))
		})
	}
}

func TestAddressBehind_Hops(t *testing.T) {
	t.Parallel()
	const inside = "10.7.7.7" // a caller within a trusted network
	for _, c := range []struct {
		name, connects string
		hops           int
		forwarded      []string
		want           string
	}{
		{"one proxy", proxy + ":1", 1, []string{client}, client},
		{"a caller inside a trusted network is itself", proxy + ":1", 1, []string{inside}, inside},
		{"and cannot choose its address", proxy + ":1", 1, []string{client + ", " + inside}, inside},
		{"nor with a line of its own", proxy + ":1", 1, []string{client, inside}, inside},
		{"nor with many", proxy + ":1", 1, []string{client, frontDoor, inside}, inside},
		{"two proxies", proxy + ":1", 2, []string{client + ", " + frontDoor}, client},
		{"two proxies, a caller inside", proxy + ":1", 2, []string{client + ", " + inside + ", " + frontDoor}, inside},
		{"the second proxy was passed by", proxy + ":1", 2, []string{another + ", " + client}, client},
		{"more hops than elements", proxy + ":1", 5, []string{inside}, inside},
		{"ports", proxy + ":1", 2, []string{"[2001:db8::7]:80, " + frontDoor + ":443"}, "2001:db8::7"},
		{"the peer is no proxy", client + ":1", 1, []string{another}, client},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, addressBehind(ours, c.hops)(forwardedRequest(t, c.connects, c.forwarded...)))
		})
	}
}

// What stands before the elements of the trusted proxies changes nothing.
func FuzzAddressBehind(f *testing.F) {
	f.Add("", client, 1)
	f.Add("1.2.3.4, ", "10.7.7.7", 1)
	f.Add("[::1]:1, ,,", "[2001:db8::7]:80, 172.16.5.5", 2)
	f.Fuzz(func(t *testing.T, forged, forwarded string, hops int) {
		elements := strings.Count(forwarded, ",") + 1
		if hops < 1 || elements < hops {
			return // the trusted proxies have written fewer elements than there are proxies
		}
		extract := addressBehind(ours, hops)
		alone := extract(forwardedRequest(t, proxy+":1", forwarded))
		require.Equal(t, alone, extract(forwardedRequest(t, proxy+":1", forged+","+forwarded)))
		require.Equal(t, alone, extract(forwardedRequest(t, proxy+":1", forged, forwarded)))
	})
}

// forwardedRequest has the X-Forwarded-For lines, and headers that must not be read.
func forwardedRequest(t *testing.T, connects string, forwarded ...string) *http.Request {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	require.NoError(t, err)
	request.RemoteAddr = connects
	for _, line := range forwarded {
		request.Header.Add("X-Forwarded-For", line)
	}
	request.Header.Set("X-Real-Ip", "192.0.2.99")
	request.Header.Set("Forwarded", "for=192.0.2.99")
	request.Header.Set("True-Client-Ip", "192.0.2.99")
	return request
}
