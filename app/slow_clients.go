package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// How long a client may keep a connection waiting. Behind the front door bodies arrive whole: Caddy reads them first,
// with limits of its own.
const (
	headerPatience = 5 * time.Second // for the whole header of a request
	bodyPatience   = 5 * time.Second // for the whole body
	writePatience  = 10 * time.Second
	maxHeaderBytes = 32 << 10
	// refusedBody is how long an answer waits for the rest of a body that no handler has read.
	refusedBody = 500 * time.Millisecond
	// acceptPatience is how long connections are still accepted when the service ends.
	acceptPatience = 50 * time.Millisecond
	// endPatience is how long a slow client has when the service ends.
	endPatience = 250 * time.Millisecond
)

// slowClients bounds how long a client may take to send a request and to take its answer, apart from how long a handler
// may take. Without it, a client that announces a body and sends none holds a connection and a goroutine, and keeps the
// service from ending.
//
// http.Server's ReadTimeout would end the context of a handler that takes longer, and its WriteTimeout counts the
// handler's time too; neither ends early when the service does.
type slowClients struct {
	body time.Duration

	// ending is done when the service accepts no more requests, and draining set when it is about to.
	ending   context.Context //nolint:containedctx // it is asked by every connection
	end      context.CancelFunc
	draining atomic.Bool

	// listener is where connections come from, and accepted is closed when no more will.
	listener *net.TCPListener
	accepted chan struct{}
	// acceptsNoMore closes it.
	acceptsNoMore func()

	mu    sync.Mutex
	conns map[*slowConn]struct{}
}

func newSlowClients(requestTimeout time.Duration) *slowClients {
	s := &slowClients{
		body: min(bodyPatience, requestTimeout), conns: map[*slowConn]struct{}{}, accepted: make(chan struct{}),
	}
	s.acceptsNoMore = sync.OnceFunc(func() { close(s.accepted) })
	s.ending, s.end = context.WithCancel(context.Background())
	return s
}

// server returns an http.Server with these bounds.
func (s *slowClients) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           s.bound(h),
		ReadHeaderTimeout: headerPatience,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         s.follow,
	}
}

// drain asks clients to open a new connection for the next request: a balancer in front finds another replica then.
func (s *slowClients) drain() { s.draining.Store(true) }

// stop ends the listener, and cuts off clients that have not sent their request or do not take their answer. It returns
// when each connection that was accepted has had its first request, or was cut off. Requests that are being handled go
// on.
//
// http.Server.Shutdown is for afterwards: it drops requests that it reads from then on, and closing a listener resets
// the connections that wait to be accepted.
func (s *slowClients) stop() {
	s.end()
	s.mu.Lock()
	for c := range s.conns {
		c.cutOff()
	}
	s.mu.Unlock()
	if s.listener != nil {
		_ = s.listener.SetDeadline(time.Now().Add(acceptPatience))
		<-s.accepted
	}
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for giveUp := time.Now().Add(2 * endPatience); s.anyNew() && time.Now().Before(giveUp); {
		<-again.C
	}
	// http.Server reports a request (StateActive) and then checks whether Shutdown has begun. One more tick lets it pass
	// that check first.
	<-again.C
}

func (s *slowClients) anyNew() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if !c.begun.Load() {
			return true
		}
	}
	return false
}

// follow learns when the first request of a connection has arrived, and when the connection ends.
func (s *slowClients) follow(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*slowConn)
	if !ok {
		return
	}
	switch state {
	case http.StateNew:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conns[c] = struct{}{}
	case http.StateActive:
		c.begun.Store(true)
	case http.StateClosed, http.StateHijacked:
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}
}

// bound gives each request's body its time.
func (s *slowClients) bound(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		if r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(w, r)
			return
		}
		connection := http.NewResponseController(w)
		_ = connection.SetReadDeadline(time.Now().Add(s.body))
		atTheEnd := context.AfterFunc(s.ending, func() { _ = connection.SetReadDeadline(time.Now().Add(endPatience)) })
		defer atTheEnd() // also after a body that has not arrived: it would be kept until the process ends
		body := &boundedBody{ReadCloser: r.Body, arrived: func() {
			atTheEnd()
			// A deadline that passes while the handler works would end its context.
			_ = connection.SetReadDeadline(time.Time{})
		}}
		r.Body = body
		next.ServeHTTP(w, r)
		if !body.whole && !body.broken {
			atTheEnd()
			_ = connection.SetReadDeadline(time.Now().Add(refusedBody)) // net/http reads the rest before it answers
		}
	})
}

// boundedBody tells when the body is there.
type boundedBody struct {
	io.ReadCloser
	arrived func()
	// whole: it is there. broken: it is late, or the client has gone.
	whole, broken bool
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF) && !b.whole:
		b.whole = true
		b.arrived()
	case err != nil && !b.whole:
		b.broken = true
	}
	return n, err
}

// listen bounds each write on the listener's connections. It is called once.
func (s *slowClients) listen(l net.Listener) net.Listener {
	s.listener, _ = l.(*net.TCPListener)
	return slowListener{l, s}
}

type slowListener struct {
	net.Listener
	bounds *slowClients
}

// Accept returns a connection whose writes are bounded. After stop it accepts what still waits, and then closes the
// listener: net.ErrClosed.
func (l slowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			_ = l.Close()
			err = net.ErrClosed
		}
		l.bounds.acceptsNoMore()
		return nil, err
	}
	return &slowConn{Conn: c, bounds: l.bounds}, nil
}

type slowConn struct {
	net.Conn
	bounds *slowClients
	// begun: a request has arrived. writing: an answer is on its way.
	begun, writing atomic.Bool
}

// cutOff gives up on a client that keeps the end of the service waiting.
func (c *slowConn) cutOff() {
	if !c.begun.Load() {
		_ = c.Conn.SetReadDeadline(time.Now().Add(endPatience))
	}
	if c.writing.Load() {
		_ = c.SetWriteDeadline(time.Now().Add(endPatience))
	}
}

// SetReadDeadline is called by http.Server before it reads a request. At the end of the service it must not give more
// time than cutOff has left.
func (c *slowConn) SetReadDeadline(t time.Time) error {
	err := c.Conn.SetReadDeadline(t)
	if c.bounds.ending.Err() != nil {
		c.cutOff()
	}
	return err
}

// Write fails if the client does not take what is written, in time.
func (c *slowConn) Write(p []byte) (int, error) {
	c.writing.Store(true)
	defer c.writing.Store(false)
	_ = c.SetWriteDeadline(time.Now().Add(writePatience))
	if c.bounds.ending.Err() != nil {
		c.cutOff()
	}
	return c.Conn.Write(p)
}

// CloseWrite is what http.Server ends a connection by, so that the client still reads the answer.
func (c *slowConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
