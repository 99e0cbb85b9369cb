package cache

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// token identifies a fill: 128 random bits.
type token [16]byte

func newToken() (t token) {
	rand.Read(t[:]) // never fails
	return t
}

// lease is the right to fill a key, while it lasts.
type lease struct {
	token token
	// value is what the lease's key holds: token|traceparent|replica. Waiters read the holder from it.
	value string
	// grantedAt is Redis's time; granted is the same moment here, for monotonic arithmetic.
	grantedAt, granted time.Time
}

type leaseStatus string

const (
	leaseAcquired leaseStatus = "acquired"
	leaseBusy     leaseStatus = "busy"
	leaseCooldown leaseStatus = "cooldown"
	// leaseFilled: a value was stored when the lease was requested.
	leaseFilled leaseStatus = "value"
	// leaseUnreadable: a value was stored, but the codec refused it. It is to be replaced.
	leaseUnreadable leaseStatus = "unreadable"
)

type leaseReply[V any] struct {
	status leaseStatus
	found  *entry[V]     // of leaseFilled; of leaseUnreadable only the header
	holder holder        // of leaseBusy: the replica that fills; of leaseCooldown: the one that failed
	lasts  time.Duration // of both: for how long at most
}

// sinceNow asks tryLease for a value that was begun after the call: whatever is stored is too old.
const sinceNow = -1

// tryLease asks once for the right to fill. A stored value counts as an answer if it was created after the given time,
// in microseconds of Redis's clock: 0 for any value, or sinceNow.
func (c *Cache[V]) tryLease(ctx context.Context, key string, after int64) (lease, leaseReply[V], error) {
	l := lease{token: newToken()}
	l.value = strings.Join([]string{hex.EncodeToString(l.token[:]), traceparent(ctx), c.options.Replica}, "|")
	var reply leaseReply[V]
	// Before the first lease: a Delete elsewhere has to know of this version before a value of it can be stored.
	var err error
	if c.registration.due() {
		err = c.breaker.do(ctx, c.names.versions, func() error { return c.registration.ensure(ctx) })
		err = c.registration.unless(err)
	}
	if err == nil {
		err = c.breaker.do(ctx, c.names.valueKey(key), func() (err error) {
			reply, err = c.askLease(ctx, key, &l, after)
			return err
		})
	}
	if err != nil {
		c.tel.leaseAsked(ctx, "unavailable")
		return l, reply, err
	}
	switch reply.status {
	case leaseAcquired:
		c.tel.leaseAsked(ctx, string(reply.status))
	case leaseBusy, leaseCooldown:
		c.tel.leaseAsked(ctx, string(reply.status))
		c.taken.set(key, reply.status, reply.lasts)
	}
	return l, reply, nil
}

func (c *Cache[V]) askLease(ctx context.Context, key string, l *lease, after int64) (leaseReply[V], error) {
	sent := time.Now()
	fields, err := c.run(ctx, leaseScript, []string{c.names.valueKey(key), c.names.leaseKey(key)},
		l.value, c.options.Lease.Milliseconds(), after).Slice()
	if err != nil {
		return leaseReply[V]{}, fmt.Errorf("lease: %w", err)
	}
	if len(fields) != 4 {
		return leaseReply[V]{}, fmt.Errorf("lease: %w", unexpected(fields))
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

// commit stores the filled value under the lease. It reports whether Redis has taken it.
func (c *Cache[V]) commit(ctx context.Context, key string, l lease, encoded []byte, keep time.Duration) (bool, error) {
	memory := c.options.memory()
	reply, err := c.publishing(ctx, commitScript, []string{c.names.valueKey(key), c.names.leaseKey(key)},
		wasFilled, key,
		l.value, string(l.token[:]), l.grantedAt.UnixMicro(), max(keep, memory).Milliseconds(), encoded,
		memory.Milliseconds()).Slice()
	if err != nil {
		err = fmt.Errorf("commit: %w", err)
		if !lostReply(err) { // a refusal, such as OOM, leaves the lease behind
			err = errors.Join(err, c.release(ctx, key, l))
		}
		return false, err
	}
	if len(reply) != 2 {
		return false, fmt.Errorf("commit: %w", unexpected(reply))
	}
	refused, _ := reply[1].(int64)
	c.published(ctx, refused)
	return reply[0] == "committed", nil
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
			// Not cancelled with the fill: a heartbeat that arrives after the commit finds another lease or none.
			kept, err := extendScript.Run(context.WithoutCancel(ctx), c.rdb, []string{c.names.leaseKey(key)},
				l.value, c.options.Lease.Milliseconds()).Bool()
			switch {
			case err != nil:
				continue // Redis may answer the next heartbeat. If not, the lease expires, as it should.
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
	if err := c.fail(ctx, key, l, cooldown, c.options.Cooldown); err != nil {
		return fmt.Errorf("cooldown: %w", err)
	}
	return nil
}

// release gives the lease back without a value, so that another replica can fill at once.
func (c *Cache[V]) release(ctx context.Context, key string, l lease) error {
	if err := c.fail(ctx, key, l, "", 0); err != nil {
		return fmt.Errorf("release lease: %w", err)
	}
	return nil
}

func (c *Cache[V]) fail(ctx context.Context, key string, l lease, cooldown string, lasts time.Duration) error {
	refused, err := c.publishing(ctx, failScript, []string{c.names.leaseKey(key)}, hasFailed, key,
		l.value, cooldown, lasts.Milliseconds()).Int64()
	if err != nil {
		return err
	}
	c.published(ctx, refused)
	return nil
}

// traceparent writes the context's span in W3C form; empty where there is none.
func traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// holderOf reads a lease value. Fields that are missing are zero.
func holderOf(leaseValue string) holder {
	fields := strings.SplitN(leaseValue, "|", 3)
	if len(fields) < 3 {
		return holder{}
	}
	carrier := propagation.MapCarrier{"traceparent": fields[1]}
	ctx := propagation.TraceContext{}.Extract(context.Background(), carrier)
	return holder{trace.SpanContextFromContext(ctx), fields[2]}
}
