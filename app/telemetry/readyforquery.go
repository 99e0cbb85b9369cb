package telemetry

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"nervous/app/roundtrips"
)

// answers counts the round-trips of one connection where they are certain: the server ends each with one ReadyForQuery
// message. It reads along, so it also sees what pgx does without telling its tracer: prepares of a batch, pings,
// de-allocations. Counting writes that are followed by reads instead would mislead for COPY, where both go on at once.
type answers struct {
	ready atomic.Int64 // since they were taken last
	wire  *wire

	// Where the reader is in the stream of messages: a byte of type, four of length that count themselves, a body.
	header [5]byte
	have   int // bytes of the header that were read
	body   int // bytes of the body still to come
}

func (a *answers) follow(b []byte) {
	for len(b) > 0 {
		if a.body > 0 {
			skipped := min(a.body, len(b))
			a.body -= skipped
			b = b[skipped:]
			continue
		}
		n := copy(a.header[a.have:], b)
		a.have += n
		b = b[n:]
		if a.have < len(a.header) {
			return
		}
		if a.header[0] == 'Z' {
			a.ready.Add(1)
			a.wire.answered(roundtrips.Postgres)
		}
		a.have, a.body = 0, int(binary.BigEndian.Uint32(a.header[1:]))-4
	}
}

// answersReader is what pgx reads messages from, above TLS. It misses the answer to a cancelled query, which pgx reads
// past it and throws away.
type answersReader struct {
	io.Reader
	*answers
}

// Read reads along. pgx reads a connection from one goroutine at a time.
func (r answersReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.follow(p[:n])
	return n, err
}

// answersConn is the network connection, below TLS: a counter around TLS would hide the certificate, which pgx needs
// for channel binding. What it holds belongs to the connection, so it is where to find the count.
type answersConn struct {
	net.Conn
	*answers
	left func(roundTrips int64)
	// plain: what passes here are messages. With TLS they are read above it.
	plain bool
}

// Read reads along where there is no TLS.
func (c *answersConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.plain {
		c.follow(p[:n])
	}
	return n, err
}

// Close tells of round-trips that were not taken: the server has answered a query that was cancelled, after its caller
// had gone. pgx waits for that answer apart, and then gives the connection up.
func (c *answersConn) Close() error {
	err := c.Conn.Close()
	if n := c.ready.Swap(0); n > 0 {
		c.left(n)
	}
	return err
}

// SyscallConn gives access to the kernel's settings of the connection.
func (c *answersConn) SyscallConn() (syscall.RawConn, error) {
	if real, ok := c.Conn.(syscall.Conn); ok {
		return real.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// readAlong puts a counter on each connection that the configuration makes.
func readAlong(config *pgx.ConnConfig, wire *wire, left func(roundTrips int64)) {
	dial, build := config.DialFunc, config.BuildFrontend
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &answersConn{Conn: conn, answers: &answers{wire: wire}, left: left}, nil
	}
	earlier := config.AfterNetConnect
	config.AfterNetConnect = func(ctx context.Context, c *pgconn.Config, conn net.Conn) (net.Conn, error) {
		if bare, ok := conn.(*answersConn); ok {
			bare.plain = true
		}
		if earlier != nil {
			return earlier(ctx, c, conn)
		}
		return conn, nil
	}
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		if conn, ok := w.(*tls.Conn); ok {
			if counted := answersOf(conn); counted != nil {
				r = answersReader{r, counted}
			}
		}
		return build(r, w)
	}
}

// answersOf returns a connection's counter, or nil.
func answersOf(conn net.Conn) *answers {
	if above, ok := conn.(interface{ NetConn() net.Conn }); ok { // *tls.Conn
		conn = above.NetConn()
	}
	if counted, ok := conn.(*answersConn); ok {
		return counted.answers
	}
	return nil
}

// takeRoundTrips returns how many round-trips the connection has made since the last time it was asked. The caller
// accounts for them, so none is counted twice and none is lost. A nil connection has made none.
func takeRoundTrips(conn *pgx.Conn) int64 {
	if conn == nil {
		return 0
	}
	if counted := answersOf(conn.PgConn().Conn()); counted != nil {
		return counted.ready.Swap(0)
	}
	return 0
}
