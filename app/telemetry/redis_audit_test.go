package telemetry

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// The audit in small: what the spans account for is what the server counted, command by command, and the round-trips on
// the spans are those on the wire.
func TestRedisSpansAreTheCallsThatTheServerCounted(t *testing.T) {
	t.Parallel()
	RedisScript("lease", lease)
	r, wire := record(t), &turnarounds{}
	client := newRedis(t, r, wire.countIn)
	auditor := redis.NewClient(&redis.Options{Addr: client.Options().Addr})
	t.Cleanup(func() { _ = auditor.Close() })
	before := commandstats(t, auditor)
	ctx := t.Context()

	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 25 {
				client.Set(ctx, "k", "v", 0)
				client.Get(ctx, "absent")
				client.LPush(ctx, "k", "not a list")
				lease.Run(ctx, client, []string{"k"}, "token")
				_, _ = client.Pipelined(ctx, func(p redis.Pipeliner) error {
					p.Incr(ctx, "n")
					p.Incr(ctx, "n")
					p.Expire(ctx, "n", time.Minute)
					return nil
				})
				_, _ = client.TxPipelined(ctx, func(p redis.Pipeliner) error {
					p.SAdd(ctx, "s", 1)
					return nil
				})
				client.ConfigGet(ctx, "maxmemory")
			}
		})
	}
	group.Wait()
	subscription := client.Subscribe(ctx, "news") // beyond the hooks
	_, err := subscription.Receive(ctx)
	require.NoError(t, err)
	require.NoError(t, subscription.Ping(ctx))
	_, err = subscription.Receive(ctx)
	require.NoError(t, err)
	require.NoError(t, subscription.Close())

	traced := r.counter(TelemetryCalls, "operation")
	trips := r.roundTrips()
	t.Logf("%d round-trips; calls %v", trips, traced)
	require.Equal(t, r.counter(WireCalls, "operation"), traced, "calls on the wire and on spans")
	require.Equal(t, map[string]int64{"redis": trips}, r.counter(WireRoundTrips, "store"))
	// The subscribed connection's: SUBSCRIBE and PING were written, and then something was read.
	require.Equal(t, wire.seen.Load(), trips+2, "round-trips on the wire and on spans")
	var counted int64
	for _, n := range r.counter(StoreRoundTrips) {
		counted += n
	}
	require.Equal(t, trips, counted, "round-trips on spans and in the metric")

	served := commandstats(t, auditor)
	for name := range served {
		if served[name] -= before[name]; served[name] == 0 {
			delete(served, name)
		}
	}
	require.EqualValues(t, 200, served["EXISTS"])
	delete(served, "EXISTS") // the script's own call
	delete(served, "INFO")   // the auditor's
	require.Equal(t, served, traced)
	require.EqualValues(t, 200, traced["GET"], "the workload was run")
	require.EqualValues(t, 400, traced["INCR"])
}

// commandstats reads how many calls of each command the server counted, named as spans name them.
func commandstats(t *testing.T, client *redis.Client) map[string]int64 {
	t.Helper()
	info, err := client.InfoMap(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	counts := map[string]int64{}
	for key, line := range info["Commandstats"] {
		name := strings.ToUpper(strings.ReplaceAll(strings.TrimPrefix(key, "cmdstat_"), "|", " "))
		for field := range strings.SplitSeq(line, ",") {
			if what, n, _ := strings.Cut(field, "="); what == "calls" || what == "rejected_calls" {
				counts[name] += mustInt(t, n)
			}
		}
	}
	return counts
}

// turnarounds counts, independently of hooks, how often a connection was written to and then read.
type turnarounds struct{ seen atomic.Int64 }

func (w *turnarounds) countIn(o *redis.Options) {
	o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		return &turnaroundConn{Conn: conn, seen: &w.seen}, err
	}
}

type turnaroundConn struct {
	net.Conn
	seen    *atomic.Int64
	written bool
}

func (c *turnaroundConn) Write(p []byte) (int, error) {
	c.written = true
	return c.Conn.Write(p)
}

func (c *turnaroundConn) Read(p []byte) (int, error) {
	if c.written {
		c.written = false
		c.seen.Add(1)
	}
	return c.Conn.Read(p)
}

// SyscallConn lets go-redis check for stale connections as it would without us.
func (c *turnaroundConn) SyscallConn() (syscall.RawConn, error) {
	return c.Conn.(syscall.Conn).SyscallConn()
}
