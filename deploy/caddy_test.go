package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

// frontDoor is Caddy with the Caddyfile of this folder, before two replicas.
type frontDoor struct {
	address string
	said    *bytes.Buffer // to be read once it has ended
	stop    func()
}

func startCaddy(t *testing.T, upstreams ...string) frontDoor {
	t.Helper()
	program, err := exec.LookPath("caddy")
	if err != nil && os.Getenv("CI") == "" {
		t.Skip("there is no caddy on PATH; ./deploy/local/test installs it")
	}
	require.NoError(t, err)
	d := frontDoor{address: freeAddress(t), said: &bytes.Buffer{}}
	_, port, err := net.SplitHostPort(d.address)
	require.NoError(t, err)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program,
		"run", "--adapter=caddyfile", "--config="+filepath.Join(root, "deploy/Caddyfile"))
	cmd.Stdout, cmd.Stderr = d.said, d.said
	dir := t.TempDir()
	cmd.Env = append(os.Environ(), "LISTEN=:"+port, "BIND=127.0.0.1", "UPSTREAMS_FROM=local",
		"UPSTREAMS="+strings.Join(upstreams, " "), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	require.NoError(t, cmd.Start())
	servicetest.Guard(t, cmd.Process.Pid)
	d.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	t.Cleanup(d.stop)
	require.Eventually(t, func() bool {
		status, _ := statusOf(t, http.MethodGet, "http://"+d.address+"/front-door/health")
		return status == http.StatusOK
	}, 20*time.Second, 20*time.Millisecond)
	return d
}

// statusOf asks, and returns the answer's status and the replica that it is from; status 0 is no answer.
func statusOf(t *testing.T, method, url string) (status int, replica string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(`{}`))
	require.NoError(t, err)
	got, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, ""
	}
	defer got.Body.Close()
	return got.StatusCode, got.Header.Get("X-Served-By")
}

// upstream answers like a replica of the app, and reads bodies as it does.
func upstream(t *testing.T) (address string) {
	t.Helper()
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Served-By", server.Listener.Addr().String())
		const most = 32 << 10
		_, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// Clients that send their body slowly, not at all, not to its end, or too much of it, in every way: no replica is taken
// out of the choice for them, and the others are served.
func TestCaddy_SlowClients(t *testing.T) {
	t.Parallel()
	d := startCaddy(t, upstream(t), upstream(t))
	var last string
	streak := 0
	const head = "POST /payments/settled HTTP/1.1\r\nHost: x\r\n"
	kinds := map[string]func(c net.Conn){
		"no body":      func(c net.Conn) { fmt.Fprint(c, head+"Content-Length: 10\r\n\r\n") },
		"half a body":  func(c net.Conn) { fmt.Fprint(c, head+"Content-Length: 10\r\n\r\n{\"pay") },
		"half a chunk": func(c net.Conn) { fmt.Fprint(c, head+"Transfer-Encoding: chunked\r\n\r\na\r\n{\"pay") },
		"aborted body": func(c net.Conn) { fmt.Fprint(c, head+"Content-Length: 10\r\n\r\n{\"pay"); c.Close() },
		"aborted chunk": func(c net.Conn) {
			fmt.Fprint(c, head+"Transfer-Encoding: chunked\r\n\r\na\r\n{\"pay")
			c.Close()
		},
		"half a header":   func(c net.Conn) { fmt.Fprint(c, "POST /payments/settled HT") },
		"stated too much": func(c net.Conn) { fmt.Fprint(c, head+"Content-Length: 10000000\r\n\r\n") },
		"too much": func(c net.Conn) {
			fmt.Fprint(c, head+"Content-Length: 900000\r\n\r\n")
			_, _ = c.Write(make([]byte, 900_000))
		},
		"too many chunks": func(c net.Conn) {
			fmt.Fprint(c, head+"Transfer-Encoding: chunked\r\n\r\n")
			for range 40 {
				fmt.Fprintf(c, "%x\r\n%s\r\n", 100_000, make([]byte, 100_000))
			}
		},
		"aborted chunks": func(c net.Conn) {
			fmt.Fprint(c, head+"Transfer-Encoding: chunked\r\n\r\n")
			fmt.Fprintf(c, "%x\r\n%s\r\n", 70_000, make([]byte, 70_000))
			c.Close()
		},
		"stopped chunks": func(c net.Conn) {
			fmt.Fprint(c, head+"Transfer-Encoding: chunked\r\n\r\n")
			fmt.Fprintf(c, "%x\r\n%s\r\n", 65_600, make([]byte, 65_600))
		},
		"stopped after the buffer": func(c net.Conn) {
			fmt.Fprint(c, head+"Content-Length: 100000\r\n\r\n")
			_, _ = c.Write(make([]byte, 70_000))
		},
		"aborted after the buffer": func(c net.Conn) {
			fmt.Fprint(c, head+"Content-Length: 100000\r\n\r\n")
			_, _ = c.Write(make([]byte, 70_000))
			c.Close()
		},
	}
	var clients sync.WaitGroup
	for range 5 {
		for _, kind := range kinds {
			clients.Go(func() {
				c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", d.address)
				if err != nil {
					return
				}
				defer c.Close()
				kind(c)
				_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
				_, _ = io.Copy(io.Discard, c)
			})
		}
	}
	all := make(chan struct{})
	go func() { clients.Wait(); close(all) }()
	for served := 0; ; served++ {
		select {
		case <-all:
			require.Greater(t, served, 200)
			return
		case <-time.After(10 * time.Millisecond):
		}
		status, by := statusOf(t, http.MethodPost, "http://"+d.address+"/payments/settled")
		require.Equal(t, http.StatusOK, status)
		if streak++; by != last {
			last, streak = by, 0
		}
		require.Less(t, streak, 50, "only %s is asked: the other one was taken out of the choice", last)
	}
}
