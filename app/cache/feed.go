package cache

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// What happens to a key, as published to waiters and to replicas that keep copies. A message is
// "<what> <version> <key>"; a deletion is of all versions.
const (
	wasFilled  = "filled"
	hasFailed  = "failed"
	wasDeleted = "deleted"
	heartbeat  = "heartbeat"
)

func (c *Cache[V]) message(what, key string) string {
	return what + " " + c.names.version + " " + key
}

// hear acts on a message.
func (c *Cache[V]) hear(message string) {
	what, rest, _ := strings.Cut(message, " ")
	version, key, _ := strings.Cut(rest, " ")
	switch {
	case what == wasDeleted:
		c.forget(key)
	case what == heartbeat || version != c.names.version:
		return
	case what == wasFilled:
		c.local.forget(key)
	}
	c.taken.forget(key)
	c.wakeups.wake(key)
}

// feed is one subscription, from its confirmation to its end. While messages arrive on it, those about the keys that it
// covers arrive too. A new subscription is a new feed: what was published in between is lost.
type feed struct {
	confirmed, ended atomic.Bool
	// received and heard are times since the program's start: of the last reply, and of the last message. A reply to
	// PING proves only that the server at the other end lives; a message was published through the master of the time.
	received, heard atomic.Int64
}

const (
	// heartbeatEvery is the longest silence on a feed that covers local copies. One replica's heartbeat serves all.
	heartbeatEvery = 500 * time.Millisecond
	// trustFor is how long after the last message a feed still covers keys, and so how long a deletion whose message
	// is lost on the way can go unnoticed.
	trustFor = 3 * heartbeatEvery
	// pingEvery is how long a subscription may be silent until the server is asked for a sign of life.
	pingEvery = 3 * time.Second
	// resubscribeAfter is the pause after a subscription has failed, and refusedRetry after Redis has refused it.
	resubscribeAfter = 100 * time.Millisecond
	refusedRetry     = 10 * time.Second
)

var programStart = time.Now()

func sinceStart() int64 { return int64(time.Since(programStart)) }

func newFeed() *feed {
	f := &feed{}
	f.received.Store(sinceStart())
	return f
}

func (f *feed) idle() time.Duration    { return time.Duration(sinceStart() - f.received.Load()) }
func (f *feed) silence() time.Duration { return time.Duration(sinceStart() - f.heard.Load()) }

// trusted says that what the feed covers has not changed without notice for longer than trustFor.
func (f *feed) trusted() bool {
	return f != nil && f.confirmed.Load() && !f.ended.Load() && f.silence() < trustFor
}

// follow hands on what arrives on a subscription until that fails or the context ends, and closes it.
func (f *feed) follow(ctx context.Context, subscription *redis.PubSub, arrived func(any)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer f.ended.Store(true)
	// Receive does not return when its context ends, but when the subscription is closed.
	context.AfterFunc(ctx, func() { _ = subscription.Close() })
	go f.watch(ctx, subscription, cancel)
	for {
		m, err := subscription.Receive(ctx)
		if err != nil {
			return err
		}
		f.received.Store(sinceStart())
		switch m.(type) {
		case *redis.Message:
			f.heard.Store(sinceStart())
		case *redis.Subscription:
			if !f.confirmed.Swap(true) {
				f.heard.Store(sinceStart()) // so that the feed covers keys before the first heartbeat
			}
		}
		arrived(m)
	}
}

// watch ends a subscription whose server does not answer any more.
func (f *feed) watch(ctx context.Context, subscription *redis.PubSub, end func()) {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		switch idle := f.idle(); {
		case idle >= 2*pingEvery:
			end()
			return
		case idle >= pingEvery:
			_ = subscription.Ping(ctx)
		}
	}
}

// beat publishes heartbeats until the context ends, unless others do.
func (f *feed) beat(ctx context.Context, publish func(context.Context)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(heartbeatEvery/2 + rand.N(heartbeatEvery/2)): // jittered, so that mostly one replica publishes
		}
		if f.silence() >= heartbeatEvery/2 {
			publish(ctx)
		}
	}
}

// listen keeps a subscription to the cache's channel until the context ends.
func (c *Cache[V]) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := c.subscribed(ctx)
		c.feed.Store(nil)
		pause := resubscribeAfter
		if redis.IsPermissionError(err) {
			pause = refusedRetry
			c.reduced.set(ctx, capabilitySubscribe, true, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// subscribed listens on one subscription until it fails.
func (c *Cache[V]) subscribed(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := newFeed()
	if c.local.ttl > 0 && c.shards == nil {
		go f.beat(ctx, func(ctx context.Context) {
			c.heartbeat(ctx, c.rdb.Publish, c.names.channel)
		})
	}
	return f.follow(ctx, c.rdb.Subscribe(ctx, c.names.channel), func(m any) {
		switch m := m.(type) {
		case *redis.Subscription:
			c.reduced.set(ctx, capabilitySubscribe, false, nil)
			c.missedMessages()
			if c.shards == nil {
				c.feed.Store(f)
			}
		case *redis.Message:
			c.hear(m.Payload)
		}
	})
}

// missedMessages forgets what is only true while every message is heard.
func (c *Cache[V]) missedMessages() {
	c.taken.forgetAll()
	if c.shards == nil {
		c.local.forgetAll()
	}
}

// heartbeat publishes one heartbeat.
func (c *Cache[V]) heartbeat(
	ctx context.Context, publish func(context.Context, string, any) *redis.IntCmd, channel string,
) {
	err := publish(c.options.Detach(ctx), channel, heartbeat).Err()
	if err == nil || redis.IsPermissionError(err) {
		c.reduced.set(ctx, capabilityPublish, err != nil, err)
	}
}

// covering returns the feed that covers the key now, or nil.
func (c *Cache[V]) covering(key string) *feed {
	switch {
	case c.local.ttl <= 0:
		return nil
	case c.shards != nil:
		return c.shards.cover(c.names.shardChannel(key), key)
	}
	return c.feed.Load()
}
