package servicetest

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Host is the address of a server that can fail over silently: connections of before stay open and nothing comes back
// on them, new ones reach the successor.
type Host struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	conns map[net.Conn]*atomic.Bool
}

// NewHost returns one before the server at the target, until the test ends.
func NewHost(t testing.TB, target string) *Host {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require(t, err)
	h := &Host{listener: l, target: target, conns: map[net.Conn]*atomic.Bool{}}
	go h.serve()
	t.Cleanup(func() {
		_ = l.Close()
		h.Cut()
	})
	return h
}

func (h *Host) serve() {
	for {
		client, err := h.listener.Accept()
		if err != nil {
			return
		}
		server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", h.target)
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

func (h *Host) each(f func(net.Conn, *atomic.Bool)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c, dead := range h.conns {
		f(c, dead)
	}
}

// Addr is where clients connect.
func (h *Host) Addr() string { return h.listener.Addr().String() }

// FailOver makes the server die; its successor has the same address at once.
func (h *Host) FailOver() { h.each(func(_ net.Conn, dead *atomic.Bool) { dead.Store(true) }) }

// Cut closes all connections, as the kernel does when it has given up on them.
func (h *Host) Cut() { h.each(func(c net.Conn, _ *atomic.Bool) { _ = c.Close() }) }
