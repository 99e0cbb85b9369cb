package telemetry

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"syscall"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"nervous/app/roundtrips"
)

// redisConn reads along what a client writes, and sees when it begins to wait for the answer. A connection that has
// subscribed is beyond the hooks: it goes on to write SUBSCRIBE, UNSUBSCRIBE and PING by itself and waits for nothing,
// so its commands are no round-trips, and unhooked is told of each.
type redisConn struct {
	net.Conn
	wire     *wire
	unhooked func(operation string)

	commands   commandReader
	last       command // mostly it is the same a thousand times
	count      *atomic.Int64
	asked      atomic.Bool // something was written since the last read
	subscribed atomic.Bool
}

// Write reads along. go-redis writes a connection from one goroutine at a time, and mostly whole commands.
func (c *redisConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.asked.Store(true)
	c.commands.follow(p[:n], c.wrote)
	return n, err
}

func (c *redisConn) wrote(word command) {
	if word != c.last || c.count == nil {
		c.last, c.count = word, c.wire.calls.of(redisSystem, word.operation().name)
	}
	c.count.Add(1)
	if strings.HasSuffix(word.name, "subscribe") {
		c.subscribed.Store(true)
	}
	if c.subscribed.Load() {
		c.unhooked(word.operation().name)
	}
}

// Read counts a round-trip at the first read after something was written.
func (c *redisConn) Read(p []byte) (int, error) {
	if c.asked.Swap(false) && !c.subscribed.Load() {
		c.wire.answered(roundtrips.Redis)
	}
	return c.Conn.Read(p)
}

// checkedRedisConn is a redisConn that also lets go-redis look, before each use, whether the server has closed it.
type checkedRedisConn struct {
	*redisConn
	inner syscall.Conn
}

// SyscallConn gives go-redis the socket.
func (c *checkedRedisConn) SyscallConn() (syscall.RawConn, error) { return c.inner.SyscallConn() }

// readAlong wraps a connection. The wrapper offers SyscallConn exactly if the connection does: a TLS connection does
// not, and go-redis takes a connection whose SyscallConn fails for a dead one and would open another for each command.
func (h *redisHook) readAlong(conn net.Conn) net.Conn {
	reading := &redisConn{Conn: conn, wire: h.wire, unhooked: h.unhooked}
	if inner, ok := conn.(syscall.Conn); ok {
		return &checkedRedisConn{reading, inner}
	}
	return reading
}

// unhooked makes a span of a command that no hook was told of. Nobody waits for its answer, so it has no duration.
func (h *redisHook) unhooked(operation string) {
	_, span := h.tracer.Start(context.Background(), operation)
	span.SetAttributes(h.system, h.namespace, semconv.DBOperationName(operation), SpanRoundTrips.Int64(0),
		SpanCallNames.StringSlice([]string{operation}), SpanCallCounts.Int64Slice([]int64{1}))
	span.End()
}
