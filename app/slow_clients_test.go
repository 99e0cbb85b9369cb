package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// rawClient is a client that does to a connection what no library would.
type rawClient struct {
	t *testing.T
	*net.TCPConn
	answers *bufio.Reader
}

func dialRaw(t *testing.T, url string) rawClient {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", url[len("http://"):])
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	return rawClient{t, conn.(*net.TCPConn), bufio.NewReader(conn)}
}

func (c rawClient) send(text string) {
	c.t.Helper()
	_, err := io.WriteString(c, text)
	require.NoError(c.t, err)
}

// answer reads one answer. last: the server closes the connection after it.
func (c rawClient) answer() (status int, contentType string, last bool) {
	c.t.Helper()
	got, err := http.ReadResponse(c.answers, nil)
	require.NoError(c.t, err)
	defer got.Body.Close()
	_, err = io.Copy(io.Discard, got.Body)
	require.NoError(c.t, err)
	return got.StatusCode, got.Header.Get("Content-Type"), got.Close
}

// is reads one answer, which must have the status.
func (c rawClient) is(status int) {
	c.t.Helper()
	got, _, _ := c.answer()
	require.Equal(c.t, status, got)
}

// isClosed waits until the server has closed the connection.
func (c rawClient) isClosed() {
	c.t.Helper()
	_, err := io.Copy(io.Discard, c.answers)
	if timeout, ok := err.(net.Error); ok { //nolint:errorlint // as it comes from the connection
		require.False(c.t, timeout.Timeout(), "the connection is still open")
	}
}

const host = " HTTP/1.1\r\nHost: x\r\n"

func TestSlowClients(t *testing.T) {
	t.Parallel()
	d := deploy(t, tenPosts(t), demo)
	token := bearer(t)
	t.Run("headers that never end", func(t *testing.T) {
		t.Parallel()
		c := dialRaw(t, d.url)
		c.send("GET /" + host + "X-Slow: ")
		c.isClosed()
	})
	t.Run("oversized headers", func(t *testing.T) {
		t.Parallel()
		c := dialRaw(t, d.url)
		_, _ = io.WriteString(c, "GET /"+host+"X-Huge: "+strings.Repeat("a", 1<<20))
		c.is(http.StatusRequestHeaderFieldsTooLarge)
	})
	for name, request := range map[string]struct {
		text   string
		status int
	}{
		"a body that never comes": {
			"POST /reconcile" + host + "Authorization: " + token + "\r\nContent-Length: 10\r\n\r\n", http.StatusRequestTimeout,
		},
		"a body that stops": {
			"POST /payments/settled" + host + "Content-Length: 20\r\n\r\n{\"payments\"", http.StatusRequestTimeout,
		},
		"a chunk that never comes": {
			"POST /payments/settled" + host + "Transfer-Encoding: chunked\r\n\r\n4\r\n{\"pa\r\n", http.StatusRequestTimeout,
		},
		"a body without a token":       {"POST /reconcile" + host + "Content-Length: 10\r\n\r\n", http.StatusUnauthorized},
		"a body without a route":       {"POST /nowhere" + host + "Content-Length: 10\r\n\r\n", http.StatusNotFound},
		"a body that no handler reads": {"GET /" + host + "Content-Length: 10\r\n\r\n", http.StatusOK},
		"a body that is too large": {
			"POST /payments/settled" + host + "Content-Length: 100000\r\n\r\n" + strings.Repeat(" ", 40_000),
			http.StatusRequestEntityTooLarge,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dialRaw(t, d.url)
			c.send(request.text)
			status, contentType, _ := c.answer()
			require.Equal(t, request.status, status)
			if status >= http.StatusBadRequest {
				require.Equal(t, "application/problem+json", contentType)
			}
			c.isClosed()
		})
	}
	t.Run("a reader that stops", func(t *testing.T) {
		t.Parallel()
		c := dialRaw(t, d.url)
		require.NoError(t, c.SetReadBuffer(1))
		var err error
		for err == nil { // pipelined, until the server gives up on it
			_, err = io.WriteString(c, "GET /openapi.yaml"+host+"\r\n")
		}
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection is still open")
	})
	t.Run("pipelined requests", func(t *testing.T) {
		t.Parallel()
		c := dialRaw(t, d.url)
		c.send(strings.Repeat("GET /"+host+"\r\n", 20) +
			"POST /payments/settled" + host + "Content-Length: 16\r\n\r\n" + `{"payments":[1]}` + "GET /nowhere" + host + "\r\n")
		for range 20 {
			c.is(http.StatusOK)
		}
		c.is(http.StatusAccepted)
		c.is(http.StatusNotFound)
	})
	t.Run("half-closed connection", func(t *testing.T) {
		t.Parallel()
		c := dialRaw(t, d.url)
		c.send("POST /payments/settled" + host + "Content-Length: 20\r\n\r\n{\"pay")
		require.NoError(t, c.CloseWrite())
		c.is(http.StatusBadRequest)
		c.isClosed()
	})
	t.Run("a handler may take longer than a body", func(t *testing.T) {
		t.Parallel()
		c := dialRaw(t, d.url)
		c.send("POST /payments/settled" + host + "Content-Length: 16\r\n\r\n" + `{"payments":[1]}`)
		c.is(http.StatusAccepted)
		<-time.After(bodyPatience + time.Second) // the body's deadline, which must not end the next request
		c.send("GET /" + host + "\r\n")
		c.is(http.StatusOK)
	})
}

// Clients that are slow in every way do not keep the service from ending, and it does not call that a fault.
func TestShutdown_SlowClients(t *testing.T) {
	t.Parallel()
	d := deploy(t, tenPosts(t), map[string]string{"DEMO": "true", "RATELIMIT_LIMIT": "10000", "SHUTDOWN_TIMEOUT": "3s"})
	token := bearer(t)
	for i := range 50 {
		dialRaw(t, d.url)
		dialRaw(t, d.url).send("GET /" + host + "X-Slow: ")
		dialRaw(t, d.url).send("POST /reconcile" + host + "Authorization: " + token + "\r\nContent-Length: 10\r\n\r\n")
		dialRaw(t, d.url).send("POST /reconcile" + host + "Content-Length: 10\r\n\r\n")
		if i < 5 {
			c := dialRaw(t, d.url)
			require.NoError(t, c.SetReadBuffer(1))
			go func() {
				var err error
				for err == nil {
					_, err = io.WriteString(c, "GET /openapi.yaml"+host+"\r\n")
				}
			}()
		}
	}
	began := time.Now()
	require.NoError(t, d.stop())
	t.Logf("ended in %v", time.Since(began).Round(time.Millisecond))
}
