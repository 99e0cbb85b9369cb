package ratelimit

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// capability is something that the user of Redis may not do, and that the limiter works without.
type capability string

const (
	publish   capability = "publish"
	subscribe capability = "subscribe"
)

// reduced is which capabilities Redis refuses.
type reduced struct{ publish, subscribe atomic.Bool }

func (r *reduced) of(c capability) *atomic.Bool {
	if c == publish {
		return &r.publish
	}
	return &r.subscribe
}

// set notes whether the capability is refused, and says so once in the log.
func (r *reduced) set(ctx context.Context, c capability, refused bool, reason string) {
	if r.of(c).Swap(refused) == refused {
		return
	}
	if refused {
		slog.WarnContext(ctx, "rate limit: Redis refuses a capability, resets reach other replicas about a second later",
			"capability", string(c), "reason", reason)
		return
	}
	slog.InfoContext(ctx, "rate limit: Redis grants a capability again", "capability", string(c))
}
