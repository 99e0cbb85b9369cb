package cache

import (
	"context"
	"log/slog"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// The values of the attribute `capability` of MetricReduced: what Redis does not permit this client.
const (
	capabilityPublish   = "publish"   // messages are not sent: other replicas poll, and trust no local copies
	capabilitySubscribe = "subscribe" // messages are not received: this replica polls, and trusts no local copies
)

// reduced knows which capabilities a Redis user without the permission for them takes away.
type reduced struct {
	cache              string
	publish, subscribe atomic.Bool
}

// set notes that a capability is refused, or is not any more, and logs the change.
func (r *reduced) set(ctx context.Context, capability string, refused bool, reason error) {
	flag := &r.publish
	if capability == capabilitySubscribe {
		flag = &r.subscribe
	}
	if flag.Load() == refused || !flag.CompareAndSwap(!refused, refused) {
		return
	}
	if !refused {
		slog.InfoContext(ctx, "cache works in full again", "cache", r.cache, "capability", capability)
		return
	}
	slog.WarnContext(ctx, "cache works in reduced mode: waiters poll, local copies are not trusted; "+
		"allow the Redis user its channels (ACL SETUSER ... &<namespace>:cache:*)",
		"cache", r.cache, "capability", capability, "error", reason)
}

// observe reports, whenever metrics are collected, what is refused.
func (r *reduced) observe(t *instruments) {
	gauge, _ := t.meter.Int64ObservableGauge(MetricReduced, metric.WithUnit("{capability}"),
		metric.WithDescription("1 while Redis refuses the capability to this client."))
	_, _ = t.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for capability, refused := range map[string]bool{
			capabilityPublish: r.publish.Load(), capabilitySubscribe: r.subscribe.Load(),
		} {
			value := int64(0)
			if refused {
				value = 1
			}
			o.ObserveInt64(gauge, value, metric.WithAttributes(t.cache, attribute.String("capability", capability)))
		}
		return nil
	}, gauge)
}
