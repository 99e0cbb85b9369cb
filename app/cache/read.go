package cache

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// read returns what Redis keeps for the key, fresh or stale; nil where there is nothing usable.
func (c *Cache[V]) read(ctx context.Context, key string) (found *entry[V], err error) {
	local := c.local.begin(key, c.covering(key))
	name := c.names.valueKey(key)
	err = c.breaker.do(ctx, name, func() error {
		// A plain GET and never a script: on a hit the script was measured to cost the server 38 times as much.
		b, err := c.rdb.Get(ctx, name).Bytes()
		if timedOut(err) && ctx.Err() == nil {
			// Once more: a second read does no harm, and a Redis that is merely busy is not down.
			b, err = c.rdb.Get(ctx, name).Bytes()
		}
		if closed(err) {
			// Redis has restarted. Over TLS go-redis does not see that a pooled connection is dead. If each cost a failure, the
			// breaker would stay open for a second a connection.
			for idle := c.rdb.PoolStats().IdleConns; idle > 0 && closed(err) && ctx.Err() == nil; idle-- {
				b, err = c.rdb.Get(ctx, name).Bytes()
			}
		}
		found, err = usable(ctx, c.tel, b, err, c.codec)
		return err
	})
	c.local.end(key, local, found, err != nil)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return found, nil
}

// usable turns a reply to GET into an entry: nil, and no error, where there is no usable one.
func usable[V any](ctx context.Context, t *instruments, b []byte, err error, codec Codec[V]) (*entry[V], error) {
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err != nil:
		return nil, err
	}
	found, err := decode(b, codec)
	switch {
	case errors.Is(err, errDeleted):
		return nil, nil
	case err != nil:
		t.refused(ctx, refusedUnreadable)
		return nil, nil
	}
	return found, nil
}
