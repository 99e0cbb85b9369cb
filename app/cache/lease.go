package cache

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

//go:embed lease.lua
var leaseLua string

//go:embed commit.lua
var commitLua string

//go:embed extend.lua
var extendLua string

//go:embed fail.lua
var failLua string

//go:embed delete.lua
var deleteLua string

var (
	leaseScript  = redis.NewScript(leaseLua)
	commitScript = redis.NewScript(commitLua)
	extendScript = redis.NewScript(extendLua)
	failScript   = redis.NewScript(failLua)
	deleteScript = redis.NewScript(deleteLua)
)

// Scripts returns the Lua scripts of this package by name, so that telemetry can name their calls.
func Scripts() map[string]*redis.Script {
	return map[string]*redis.Script{
		"cache.lease": leaseScript, "cache.commit": commitScript, "cache.extend": extendScript,
		"cache.fail": failScript, "cache.delete": deleteScript,
	}
}

// LoadScripts is for a client's OnConnect: it gives the server the scripts in one round-trip, so that no request has to
// send one whole. On every connection, because a Redis that was restarted has forgotten them. It is an option: a script
// that the server does not know is sent when it is needed.
func LoadScripts(ctx context.Context, conn *redis.Conn) error {
	_, err := conn.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		// Not Script.Load: in a pipeline it takes the reply that has not come yet, an empty one, for the script's hash.
		for _, lua := range []string{leaseLua, commitLua, extendLua, failLua, deleteLua} {
			pipe.ScriptLoad(ctx, lua)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load scripts: %w", err)
	}
	return nil
}

// token tells fills apart: 128 random bits.
type token [16]byte

func newToken() (t token) {
	rand.Read(t[:]) // never fails
	return t
}

// lease is the right to fill a key, while it lasts.
type lease struct {
	token token
	// value is what the lease's key holds: token|traceparent|replica. Waiters read there whom they wait for.
	value string
	// grantedAt is Redis's time; granted is the same moment here, for monotonic arithmetic.
	grantedAt, granted time.Time
}

type leaseStatus string

const (
	leaseAcquired leaseStatus = "acquired"
	leaseBusy     leaseStatus = "busy"
	leaseCooldown leaseStatus = "cooldown"
	// leaseFilled says that a value was there when the lease was asked for.
	leaseFilled leaseStatus = "value"
	// leaseUnreadable says likewise, but that the codec refused it: it is to be replaced.
	leaseUnreadable leaseStatus = "unreadable"
)

type leaseReply[V any] struct {
	status leaseStatus
	found  *entry[V]     // of leaseFilled; of leaseUnreadable only the header
	holder holder        // of leaseBusy: who fills; of leaseCooldown: who failed
	lasts  time.Duration // likewise: how long at most
}

// tryLease asks once for the right to fill. seen is the value that is to be replaced, or nil.
func (c *Cache[V]) tryLease(ctx context.Context, key string, seen *entry[V]) (lease, leaseReply[V], error) {
	l := lease{token: newToken()}
	l.value = strings.Join([]string{hex.EncodeToString(l.token[:]), traceparent(ctx), c.options.Replica}, "|")
	var reply leaseReply[V]
	err := c.breaker.do(ctx, func() (err error) {
		reply, err = c.askLease(ctx, key, &l, seen)
		return err
	})
	if err != nil {
		c.tel.leaseAsked(ctx, "unavailable")
		return l, reply, err
	}
	switch reply.status {
	case leaseAcquired, leaseBusy, leaseCooldown:
		c.tel.leaseAsked(ctx, string(reply.status))
	}
	return l, reply, nil
}

func (c *Cache[V]) askLease(ctx context.Context, key string, l *lease, seen *entry[V]) (leaseReply[V], error) {
	var created int64
	if seen != nil {
		created = seen.createdAt.UnixMicro()
	}
	sent := time.Now()
	fields, err := c.run(ctx, leaseScript, []string{c.valueKey(key), c.leaseKey(key)},
		l.value, c.options.Lease.Milliseconds(), created).Slice()
	if err != nil {
		return leaseReply[V]{}, fmt.Errorf("lease: %w", err)
	}
	if len(fields) != 4 {
		return leaseReply[V]{}, fmt.Errorf("lease: reply of %d fields", len(fields))
	}
	status, _ := fields[0].(string)
	clock, _ := fields[1].(string)
	body, _ := fields[2].(string)
	lasts, _ := fields[3].(int64)

	micros, err := strconv.ParseInt(clock, 10, 64)
	if err != nil {
		return leaseReply[V]{}, fmt.Errorf("lease: server time: %w", err)
	}
	l.granted, l.grantedAt = time.Now(), time.UnixMicro(micros)
	c.clock.learn(l.grantedAt, sent)

	reply := leaseReply[V]{status: leaseStatus(status), lasts: time.Duration(lasts) * time.Millisecond}
	switch reply.status {
	case leaseAcquired:
	case leaseBusy, leaseCooldown:
		reply.holder = holderOf(body)
	case leaseFilled:
		if reply.found, err = decode([]byte(body), c.codec); err != nil {
			c.tel.refused(ctx, refusedUnreadable)
			reply.status = leaseUnreadable
		}
	default:
		return leaseReply[V]{}, fmt.Errorf("lease: unknown status %q", status)
	}
	return reply, nil
}

// run runs a script, and once more where Redis was not heard: it may have done it and only the reply was lost. All of
// ours may be repeated, because they know their own token.
func (c *Cache[V]) run(ctx context.Context, script *redis.Script, keys []string, args ...any) *redis.Cmd {
	reply := script.Run(ctx, c.rdb, keys, args...)
	if outOfReach(reply.Err()) && ctx.Err() == nil {
		reply = script.Run(ctx, c.rdb, keys, args...)
	}
	return reply
}

// commit stores what was filled under the lease; it reports whether it was taken.
func (c *Cache[V]) commit(ctx context.Context, key string, l lease, encoded []byte, keep time.Duration) (bool, error) {
	memory := c.options.memory()
	status, err := c.run(ctx, commitScript, []string{c.valueKey(key), c.leaseKey(key)},
		l.value, string(l.token[:]), l.grantedAt.UnixMicro(), max(keep, memory).Milliseconds(), encoded,
		c.channel(), message(wasFilled, key), memory.Milliseconds()).Text()
	if err != nil {
		return false, fmt.Errorf("commit: %w", err)
	}
	return status == "committed", nil
}

// keepAlive extends the lease until the context ends or the lease is lost.
func (c *Cache[V]) keepAlive(ctx context.Context, key string, l lease) {
	beat := time.NewTicker(c.options.Lease / 3)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			// Not cancelled with the fill: a beat that arrives after the commit finds another's lease or none.
			kept, err := extendScript.Run(context.WithoutCancel(ctx), c.rdb, []string{c.leaseKey(key)},
				l.value, c.options.Lease.Milliseconds()).Bool()
			switch {
			case err != nil:
				continue // Redis may answer the next beat; if not, the lease expires, as it should
			case !kept:
				event(ctx, "lease.lost")
				return
			}
			event(ctx, "lease.extended")
		}
	}
}

// cool swaps the lease for a cooldown after a failed fill.
func (c *Cache[V]) cool(ctx context.Context, key string, l lease) error {
	cooldown := "!|" + traceparent(ctx) + "|" + c.options.Replica
	err := c.run(ctx, failScript, []string{c.leaseKey(key)},
		l.value, cooldown, c.options.Cooldown.Milliseconds(), c.channel(), message(hasFailed, key)).Err()
	if err != nil {
		return fmt.Errorf("cooldown: %w", err)
	}
	return nil
}

// bury leaves a tombstone for the given time.
func (c *Cache[V]) bury(ctx context.Context, key string, stays time.Duration) error {
	return c.run(ctx, deleteScript, []string{c.valueKey(key), c.leaseKey(key)},
		stays.Milliseconds(), c.channel(), message(wasDeleted, key)).Err()
}

// traceparent writes the context's span in W3C form; empty where there is none.
func traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// holderOf reads a lease value; what it does not say is zero.
func holderOf(leaseValue string) holder {
	fields := strings.SplitN(leaseValue, "|", 3)
	if len(fields) < 3 {
		return holder{}
	}
	carrier := propagation.MapCarrier{"traceparent": fields[1]}
	ctx := propagation.TraceContext{}.Extract(context.Background(), carrier)
	return holder{trace.SpanContextFromContext(ctx), fields[2]}
}
