package otlp_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/app/servicetest/otlp"
)

// A service that ends breaks off the export that it is at. That is no fault of what it exports.
func TestAnExportThatIsBrokenOffIsNone(t *testing.T) {
	t.Parallel()
	r := otlp.Receive(t)
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(r.URL(), "http://"))
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprint(conn, "POST /v1/metrics HTTP/1.1\r\nHost: receiver\r\nContent-Length: 100\r\n\r\nthe beginning")
	require.NoError(t, err)
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	_, err = io.Copy(io.Discard, conn) // until it was dealt with
	require.NoError(t, err)
	require.Empty(t, r.Points(""))
}
