package telemetry

import (
	"context"
	"encoding/binary"
	"net"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"nervous/app/roundtrips"
)

// readyForQueryConn counts round-trips where they are certain: the server ends each with one ReadyForQuery message. It
// reads along, so it also sees what pgx does without telling its tracer: prepares of a batch, pings, de-allocations.
// Counting writes that are followed by reads instead would mislead for COPY, where both go on at once.
type readyForQueryConn struct {
	net.Conn
	ready atomic.Int64 // since somebody took them last
	wire  *wire
	left  func(roundTrips int64)

	// Where the reader is in the stream of messages: a byte of type, four of length that count themselves, a body.
	header [5]byte
	have   int // bytes of the header that were read
	body   int // bytes of the body still to come
}

// Read reads along. pgx reads a connection from one goroutine at a time.
func (c *readyForQueryConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.follow(p[:n])
	return n, err
}

// Close tells of round-trips that nobody has taken: the server has answered a query that was cancelled, after whoever
// asked had gone. pgx waits for that answer apart, and then gives the connection up.
func (c *readyForQueryConn) Close() error {
	err := c.Conn.Close()
	if n := c.ready.Swap(0); n > 0 {
		c.left(n)
	}
	return err
}

func (c *readyForQueryConn) follow(b []byte) {
	for len(b) > 0 {
		if c.body > 0 {
			skipped := min(c.body, len(b))
			c.body -= skipped
			b = b[skipped:]
			continue
		}
		n := copy(c.header[c.have:], b)
		c.have += n
		b = b[n:]
		if c.have < len(c.header) {
			return
		}
		if c.header[0] == 'Z' {
			c.ready.Add(1)
			c.wire.answered(roundtrips.Postgres)
		}
		c.have, c.body = 0, int(binary.BigEndian.Uint32(c.header[1:]))-4
	}
}

// readAlong puts a counter around each connection that the configuration makes, after TLS. (pgx cannot see the TLS
// connection through it, so SCRAM goes without channel binding; channel_binding=require would fail.)
func readAlong(config *pgx.ConnConfig, wire *wire, left func(roundTrips int64)) {
	earlier := config.AfterNetConnect
	config.AfterNetConnect = func(ctx context.Context, c *pgconn.Config, conn net.Conn) (net.Conn, error) {
		if earlier != nil {
			var err error
			if conn, err = earlier(ctx, c, conn); err != nil {
				return conn, err
			}
		}
		return &readyForQueryConn{Conn: conn, wire: wire, left: left}, nil
	}
}

// takeRoundTrips returns how many round-trips the connection has made since the last time it was asked. Whoever asks
// accounts for them, so none is counted twice and none is lost. A nil connection has made none.
func takeRoundTrips(conn *pgx.Conn) int64 {
	if conn == nil {
		return 0
	}
	if counter, ok := conn.PgConn().Conn().(*readyForQueryConn); ok {
		return counter.ready.Swap(0)
	}
	return 0
}
