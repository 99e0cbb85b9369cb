package ratelimit

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// connectFor bounds one try to open connections. It is longer than a call may take: no caller waits for it.
const connectFor = 10 * time.Second

// connect opens connections before checks need them, and tries until it has opened all. A check opens what is missing.
func (l *Limiter) connect(ctx context.Context) {
	for l.tryToConnect(ctx) != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(breakerRest):
		}
	}
}

func (l *Limiter) tryToConnect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(l.options.Detach(ctx), connectFor)
	defer cancel()
	open := func(ctx context.Context, node *redis.Client) error {
		return openConnections(ctx, node, min(l.options.Connections, node.Options().PoolSize-1))
	}
	switch client := l.rdb.(type) {
	case *redis.Client: // of Sentinel too
		return open(ctx, client)
	case *redis.ClusterClient:
		return client.ForEachMaster(ctx, open)
	}
	return nil
}

// lost has a Cluster's client ask for the slots again when a node did not answer. By itself go-redis does that once a
// minute, or when a node redirects it, and a master that is gone redirects no call. go-redis bounds how often it asks.
func (l *Limiter) lost(ctx context.Context, err error) {
	cluster, isCluster := l.rdb.(*redis.ClusterClient)
	if answer := redis.Error(nil); isCluster && err != nil && !errors.As(err, &answer) {
		cluster.ReloadState(ctx)
	}
}

// openConnections sends as many PINGs at once as connections are wanted. Where the answers take long, each needs a
// connection of its own; where they do not, opening one is quick too. The second time is for connections that were
// dialed and not used. (redis.Client.Conn would hold each, but it shares options with other connections unguarded.)
func openConnections(ctx context.Context, node *redis.Client, n int) error {
	for range 2 {
		var pings errgroup.Group
		for range n {
			pings.Go(func() error { return node.Ping(ctx).Err() })
		}
		if err := pings.Wait(); err != nil {
			return err
		}
	}
	return nil
}
