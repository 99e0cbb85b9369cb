package main

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/redis/go-redis/v9"
)

// followFailovers makes a client of a Cluster ask for the slots again when a node does not answer. By itself go-redis
// asks once a minute, or when a node redirects it, and a master that is gone redirects no client: its slots would fail
// for up to a minute after a replica has taken over. go-redis asks at most five times a second, whatever it is told.
func followFailovers(rdb redis.UniversalClient) {
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		cluster.OnNewNode(func(node *redis.Client) { node.AddHook(failureHook{cluster}) })
	}
}

type failureHook struct{ cluster *redis.ClusterClient }

// DialHook sees a node that cannot be reached.
func (h failureHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := next(ctx, network, address)
		h.look(ctx, err)
		return conn, err
	}
}

// ProcessHook sees a node that does not answer a command.
func (h failureHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		h.look(ctx, err)
		return err
	}
}

// ProcessPipelineHook sees a node that does not answer a pipeline.
func (h failureHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		h.look(ctx, err)
		return err
	}
}

// look tells a network's error from a server's answer.
func (h failureHook) look(ctx context.Context, err error) {
	var network net.Error // a time-out too
	if errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		h.cluster.ReloadState(ctx)
	}
}
