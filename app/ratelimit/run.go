package ratelimit

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// heartbeatsMissed is how many heartbeats a replica may miss until the others count it as gone.
const heartbeatsMissed = 5

// Run tells other replicas that this one lives, and hears from them what was reset, until the context ends. It returns
// nil: while Redis is away, what was last known counts.
func (l *Limiter) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		l.beat(ctx)
		return nil
	})
	group.Go(func() error {
		l.listen(ctx)
		return nil
	})
	return group.Wait()
}

// beat counts the replicas, this one among them, again and again.
func (l *Limiter) beat(ctx context.Context) {
	ticker := time.NewTicker(l.options.Heartbeat)
	defer ticker.Stop()
	failing := false
	for {
		err := l.heartbeat(ctx)
		if ctx.Err() != nil {
			l.leave(context.WithoutCancel(ctx))
			return
		}
		if (err != nil) != failing {
			failing = !failing
			slog.WarnContext(ctx, "heartbeat changed", "failing", failing, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

func (l *Limiter) heartbeat(ctx context.Context) error {
	ctx, span := l.tel.startHeartbeat(l.options.Detach(ctx))
	defer span.End()
	ctx, cancel := context.WithTimeout(ctx, l.options.Heartbeat)
	defer cancel()
	alive := heartbeatsMissed * l.options.Heartbeat
	n, err := heartbeatScript.Run(ctx, l.rdb, []string{replicasKey}, l.options.Replica, alive.Milliseconds()).Int64()
	if err != nil {
		recordError(span, err)
		return fmt.Errorf("rate limit: heartbeat: %w", err)
	}
	l.replicas.Store(max(1, n))
	return nil
}

// leave says that this replica is gone. If it cannot be said, the others find out.
func (l *Limiter) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(l.options.Detach(ctx), l.options.Budget)
	defer cancel()
	_ = l.rdb.ZRem(ctx, replicasKey, l.options.Replica).Err()
}

// listen forgets denials of callers that were reset elsewhere. go-redis reconnects and subscribes again by itself; what
// was published in between is lost, so with each subscription everything is forgotten.
func (l *Limiter) listen(ctx context.Context) {
	subscription := l.rdb.Subscribe(ctx, resetsChannel)
	defer subscription.Close()
	messages := subscription.ChannelWithSubscriptions()
	for {
		select {
		case <-ctx.Done():
			return
		case m, open := <-messages:
			if !open {
				return
			}
			switch m := m.(type) {
			case *redis.Subscription:
				l.denials.forgetAll()
			case *redis.Message:
				l.denials.forget(m.Payload)
				l.fallback.forget(m.Payload)
			}
		}
	}
}
