package reconcile_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
)

// host is the address of a server that may die without a word: connections of before stay open and nothing comes back
// on them, new ones reach its successor.
type host struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	conns map[net.Conn]*atomic.Bool
}

func newHost(t *testing.T, target string) *host {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h := &host{listener: l, target: target, conns: map[net.Conn]*atomic.Bool{}}
	go h.serve()
	t.Cleanup(func() {
		_ = l.Close()
		h.each(func(c net.Conn, _ *atomic.Bool) { _ = c.Close() })
	})
	return h
}

func (h *host) serve() {
	for {
		client, err := h.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", h.target) //nolint:noctx // until the test ends
		if err != nil {
			_ = client.Close()
			continue
		}
		dead := &atomic.Bool{}
		h.mu.Lock()
		h.conns[client], h.conns[server] = dead, dead
		h.mu.Unlock()
		go pass(server, client, dead)
		go pass(client, server, dead)
	}
}

func pass(to io.WriteCloser, from io.Reader, dead *atomic.Bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err == nil && !dead.Load() {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			if !dead.Load() {
				_ = to.Close()
			}
			return
		}
	}
}

func (h *host) each(f func(net.Conn, *atomic.Bool)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c, dead := range h.conns {
		f(c, dead)
	}
}

// fail makes the host die; its successor has the same address at once.
func (h *host) fail() { h.each(func(_ net.Conn, dead *atomic.Bool) { dead.Store(true) }) }

func (s stores) behindHost(t *testing.T) (stores, *host) {
	t.Helper()
	u, err := url.Parse(s.Database)
	require.NoError(t, err)
	h := newHost(t, u.Host)
	u.Host = h.listener.Addr().String()
	s.Database = u.String()
	return s, h
}

// Postgres fails over, and no connection is closed. A run that comes then, or goes on, takes less than half a minute
// more.
func TestPostgresFailsOverSilently(t *testing.T) {
	t.Parallel()
	const bound = 30 * time.Second
	for name, midway := range map[string]bool{"before a run": false, "during a run": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStores(t)
			far, h := s.behindHost(t)
			r := far.reconciler(t, reconcile.Options{BufferLease: lease})
			ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
			t.Cleanup(stop)
			go func() { _ = r.Run(ctx) }()
			first := s.start(t, reconcile.SingleStatement, 1).ID
			require.Equal(t, reconcile.Done, s.over(t, first).State)

			release := s.hold(t)
			if !midway {
				release()
				h.fail()
			}
			id := s.start(t, reconcile.Buffered, 0).ID
			if midway {
				s.blocked(t)
				h.fail()
				release()
			}
			began := time.Now()
			job := s.over(t, id)
			t.Logf("%v after the failover: %s, attempts %d", time.Since(began).Round(time.Millisecond), job.State, job.Attempts)
			require.Equal(t, reconcile.Done, job.State, job.Err)
			require.Less(t, time.Since(began), bound)
			s.holds(t, payments)
		})
	}
}
