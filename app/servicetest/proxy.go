package servicetest

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy stands between clients and one server and lets everything pass, until it is told to misbehave as networks do.
type Proxy struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	delay time.Duration
	lose  *loss
	pairs map[*pair]bool
}

// pair is a client's connection and ours to the server on its behalf.
type pair struct {
	client, server net.Conn
	// losing is set while the server works on the command whose reply is to be lost.
	losing *loss
}

func (p *pair) close() {
	_ = p.client.Close()
	_ = p.server.Close()
}

// loss is an order to lose a reply.
type loss struct {
	command []byte
	lost    chan struct{}
}

// NewProxy starts a proxy on 127.0.0.1 to the target, host:port. It ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require(t, err)
	p := &Proxy{listener: listener, target: target, pairs: map[*pair]bool{}}
	go p.accept()
	t.Cleanup(func() {
		_ = listener.Close()
		p.Cut()
	})
	return p
}

// Addr is where clients connect to, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Delay holds up every reply from now on; zero ends that.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Cut closes all connections. New ones are welcome.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pair := range p.pairs {
		pair.close()
	}
}

// LoseReply lets the next command that contains the given text reach the server, waits until the server has answered,
// and closes the client's connection instead of passing the answer on: it was done, and nobody heard. The channel is
// closed when that has happened. The text must be near the command's beginning, in its first packet.
func (p *Proxy) LoseReply(command string) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = &loss{[]byte(command), make(chan struct{})}
	return p.lose.lost
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // the test has ended
		}
		server, err := net.DialTimeout("tcp", p.target, time.Minute)
		if err != nil {
			_ = client.Close() // as a server that is not there would
			continue
		}
		pair := &pair{client: client, server: server}
		p.mu.Lock()
		p.pairs[pair] = true
		p.mu.Unlock()
		var both sync.WaitGroup
		both.Go(func() { forward(pair, server, client, func(b []byte) bool { return p.commanded(pair, b) }) })
		both.Go(func() { forward(pair, client, server, func([]byte) bool { return p.answered(pair) }) })
		go func() {
			both.Wait()
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.pairs, pair)
		}()
	}
}

// forward copies until one side ends or pass says no, and then ends both.
func forward(pair *pair, to io.Writer, from io.Reader, pass func([]byte) bool) {
	defer pair.close()
	packet := make([]byte, 64<<10)
	for {
		n, err := from.Read(packet)
		if err != nil || !pass(packet[:n]) {
			return
		}
		if _, err := to.Write(packet[:n]); err != nil {
			return
		}
	}
}

// commanded looks at what a client says.
func (p *Proxy) commanded(pair *pair, packet []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lose != nil && bytes.Contains(packet, p.lose.command) {
		pair.losing, p.lose = p.lose, nil
	}
	return true
}

// answered says whether the server's answer may pass.
func (p *Proxy) answered(pair *pair) bool {
	p.mu.Lock()
	delay, losing := p.delay, pair.losing
	p.mu.Unlock()
	if losing != nil {
		close(losing.lost)
		return false
	}
	<-time.After(delay) // the fault itself: nobody waits for anything else here
	return true
}
