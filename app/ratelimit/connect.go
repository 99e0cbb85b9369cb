package ratelimit

import (
	"context"
	"errors"
	"sync"

	"github.com/redis/go-redis/v9"
)

// connect opens connections before checks need them. It is best effort: a check opens what is missing.
func (l *Limiter) connect(ctx context.Context) {
	ctx, cancel := context.WithTimeout(l.options.Detach(ctx), l.options.CallTimeout)
	defer cancel()
	open := func(ctx context.Context, node *redis.Client) error {
		openConnections(ctx, node, min(l.options.Connections, node.Options().PoolSize-1))
		return nil
	}
	switch client := l.rdb.(type) {
	case *redis.Client: // of Sentinel too
		_ = open(ctx, client)
	case *redis.ClusterClient:
		_ = client.ForEachMaster(ctx, open)
	}
}

// lost has a Cluster's client ask for the slots again when a node did not answer. By itself go-redis does that once a
// minute, or when a node redirects it, and a master that is gone redirects no call. go-redis bounds how often it asks.
func (l *Limiter) lost(ctx context.Context, err error) {
	cluster, isCluster := l.rdb.(*redis.ClusterClient)
	if answer := redis.Error(nil); isCluster && err != nil && !errors.As(err, &answer) {
		cluster.ReloadState(ctx)
	}
}

// openConnections holds each connection until all are open, so that none is used twice.
func openConnections(ctx context.Context, node *redis.Client, n int) {
	var pinged sync.WaitGroup
	for range n {
		conn := node.Conn()
		defer conn.Close()
		pinged.Go(func() { _ = conn.Ping(ctx).Err() })
	}
	pinged.Wait()
}
