package cache

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// shards are the feeds of local copies on a Redis Cluster: one subscription to each master that keeps a key with a
// copy, and on it one shard channel a key.
//
// An ordinary channel would not do. Its messages reach a subscriber over the cluster's bus, where they may be lost
// unnoticed; those of a shard channel come from the key's own master, over one connection whose loss is noticed.
type shards struct {
	cluster *redis.ClusterClient
	limit   int
	// forget drops the copy of a key that is not covered any more; hear acts on a message; publish sends a heartbeat to
	// a channel; refused is told whether Redis permits the subscriptions.
	forget  func(key string)
	hear    func(message string)
	publish func(ctx context.Context, channel string)
	refused func(error)

	mu        sync.Mutex
	ctx       context.Context // of Run; nil while it does not run
	byNode    map[string]*shardFeed
	byChannel map[string]*shardChannel
	// uncovered are the channels of feeds that ended, and their keys. Their copies are kept for an outage, until a new
	// feed of the key's master is confirmed.
	uncovered map[string]string
	pausedTo  time.Time // no new subscriptions before this
}

// shardFeed is the subscription to one master.
type shardFeed struct {
	*feed
	address      string
	subscription *redis.PubSub
	ctx          context.Context
	end          context.CancelFunc
	channels     map[string]bool
}

// shardChannel is a key's channel. Its feed is nil until the master has confirmed the subscription.
type shardChannel struct {
	key  string
	feed *shardFeed
}

// start lets keys be covered until the context ends.
func (s *shards) start(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
}

// cover returns the feed that covers the key now. If there is none, it subscribes in the background for later reads.
func (s *shards) cover(channel, key string) *feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.byChannel[channel]; known != nil {
		if known.feed == nil {
			return nil
		}
		return known.feed.feed
	}
	if s.ctx == nil || s.ctx.Err() != nil || time.Now().Before(s.pausedTo) {
		return nil
	}
	if len(s.byChannel) >= s.limit {
		for other := range s.byChannel {
			go s.drop(other) // makes room for the next read
			break
		}
		return nil
	}
	s.byChannel[channel] = &shardChannel{key: key}
	go s.subscribe(s.ctx, channel)
	return nil
}

// subscribe asks the channel's master for its messages, on a new subscription or on the one that is there.
func (s *shards) subscribe(ctx context.Context, channel string) {
	master, err := s.cluster.MasterForKey(ctx, channel)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.byChannel, channel)
		s.pausedTo = time.Now().Add(resubscribeAfter)
		return
	}
	f, isNew := s.at(ctx, master.Options().Addr, channel)
	if f.subscription.SSubscribe(f.ctx, channel) != nil {
		f.end() // later reads cover its keys again
		s.mu.Lock()
		// The feed may have ended before this channel was added to it, so that its end did not remove the channel.
		if known := s.byChannel[channel]; known != nil && known.feed == nil {
			delete(s.byChannel, channel)
		}
		s.mu.Unlock()
	}
	if !isNew {
		return
	}
	// Not before: a subscription without a channel connects to any node.
	go s.follow(f)
	go f.beat(f.ctx, func(ctx context.Context) {
		if f.confirmed.Load() && f.silence() > 2*trustFor { // the master has changed, and the old one does not say so
			f.end()
			return
		}
		if channel := s.anyOf(f); channel != "" {
			s.publish(ctx, channel)
		}
	})
}

// at returns the feed from a master, a new one if there is none, with the channel added to it.
func (s *shards) at(ctx context.Context, address, channel string) (f *shardFeed, isNew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.byNode[address]; f != nil {
		f.channels[channel] = true
		return f, false
	}
	f = &shardFeed{
		feed: newFeed(), address: address, subscription: s.cluster.SSubscribe(ctx), channels: map[string]bool{channel: true},
	}
	f.ctx, f.end = context.WithCancel(ctx)
	s.byNode[address] = f
	return f, true
}

// follow listens on a subscription until it fails. Then its keys are not covered any more.
func (s *shards) follow(f *shardFeed) {
	defer f.end()
	err := f.follow(f.ctx, f.subscription, func(m any) {
		switch m := m.(type) {
		case *redis.Subscription:
			if m.Kind == "ssubscribe" {
				s.refused(nil)
				s.confirmed(f, m.Channel)
			} else {
				s.drop(m.Channel) // the slot has moved, or we asked for it
			}
		case *redis.Message:
			s.hear(m.Payload)
		}
	})
	pause := resubscribeAfter
	if redis.IsPermissionError(err) {
		pause = refusedRetry
		s.refused(err)
	}
	s.mu.Lock()
	s.pausedTo = time.Now().Add(pause)
	if s.byNode[f.address] == f {
		delete(s.byNode, f.address)
	}
	for channel := range f.channels {
		known := s.byChannel[channel]
		if known == nil {
			continue
		}
		if known.feed == f {
			s.uncovered[channel] = known.key
		}
		delete(s.byChannel, channel)
	}
	s.mu.Unlock()
}

// confirmed is told of each subscription that a master has confirmed.
func (s *shards) confirmed(f *shardFeed, channel string) {
	s.mu.Lock()
	known := s.byChannel[channel]
	forgotten := s.servedBy(f)
	if known == nil {
		delete(f.channels, channel)
	}
	s.mu.Unlock()
	if known == nil { // dropped meanwhile
		s.unsubscribe(f, channel)
		return
	}
	for _, key := range append(forgotten, known.key) {
		s.forget(key) // messages about it may have been missed
	}
	s.mu.Lock()
	now := s.byChannel[channel]
	if now == known && f.channels[channel] {
		known.feed = f
	}
	if now == nil {
		delete(f.channels, channel)
	}
	s.mu.Unlock()
	if now == nil { // dropped since: drop did not know yet which feed to unsubscribe from
		s.unsubscribe(f, channel)
	}
}

// servedBy removes and returns the uncovered keys that are the feed's master's now. Those of a master that is away keep
// their copies.
func (s *shards) servedBy(f *shardFeed) (keys []string) {
	for channel, key := range s.uncovered {
		master, err := s.cluster.MasterForKey(f.ctx, channel) // from the client's memory
		if err == nil && master.Options().Addr != f.address {
			continue
		}
		delete(s.uncovered, channel)
		keys = append(keys, key)
	}
	return keys
}

// drop ends the subscription to a channel and forgets the copy of its key.
func (s *shards) drop(channel string) {
	s.mu.Lock()
	known := s.byChannel[channel]
	delete(s.byChannel, channel)
	var from *shardFeed
	if known != nil && known.feed != nil && known.feed.channels[channel] {
		from = known.feed
		delete(from.channels, channel)
	}
	s.mu.Unlock()
	if from != nil {
		s.unsubscribe(from, channel)
	}
	if known != nil {
		s.forget(known.key)
	}
}

func (s *shards) unsubscribe(f *shardFeed, channel string) {
	if f.subscription.SUnsubscribe(context.Background(), channel) != nil { // its write time-out bounds it
		f.end()
	}
}

// anyOf returns a channel that the feed covers, or "".
func (s *shards) anyOf(f *shardFeed) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for channel := range f.channels {
		if known := s.byChannel[channel]; known != nil && known.feed == f {
			return channel
		}
	}
	return ""
}
