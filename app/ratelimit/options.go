package ratelimit

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Options fixes how a Limiter behaves. Replica is required; every other zero value stands for the default that its
// comment states.
type Options struct {
	// Replica tells this process from others that share the limits.
	Replica string

	// Namespace begins every key and channel in Redis: it keeps services and environments that share a Redis apart.
	// Defaults to "default".
	Namespace string

	// Budget is how long a check waits for Redis until the policies' Fallback decides. Every request may pay it, so it is
	// less than what a cache may wait for its answer. It bounds the wait only: the call goes on, and what Redis answers
	// later is remembered. Defaults to 50 ms.
	Budget time.Duration

	// CallTimeout is how long a call to Redis may take, the time to open and initialise a connection included. Defaults to
	// one second, or to Budget if that is longer: over TLS a first call takes about six round-trips, and after a second
	// the circuit breaker tries again, so the late calls of one outage do not add up.
	CallTimeout time.Duration

	// LateCalls is how many calls may go on after the budget at the same time. With more than that, checks are decided
	// without Redis. Defaults to 128.
	LateCalls int

	// Connections is how many connections Run opens when it begins, to each master, and at most the client's PoolSize
	// less one: a check that has to open one first may miss its budget. Defaults to 16; a negative number is none.
	Connections int

	// Heartbeat is how often replicas say that they live; five that fail to come mean that one does not. It matters only
	// to the Local fallback. Defaults to one second.
	Heartbeat time.Duration

	// Memory is how many denials this process remembers (about 400 bytes each), and for how many callers and policies it
	// can stand in for Redis. Defaults to 10,000.
	Memory int

	// FallbackBytes bounds what this process keeps to stand in for Redis: 256 bytes and the caller's text for each caller
	// and policy, and up to 8 kB for its log, however high the limit. Defaults to 16 MiB.
	FallbackBytes int64

	// Detach prepares the context of the work that no waiting caller pays for (heartbeats, late calls), for example by
	// giving it a tally of its own. Defaults to leaving it as it is.
	Detach func(context.Context) context.Context

	// TracerProvider and MeterProvider default to the global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider

	// clock replaces Redis's where a test is about time.
	clock func() time.Time
}

func (o Options) withDefaults() Options {
	if o.Replica == "" {
		panic("ratelimit: Options.Replica is empty, set a name that no other process has")
	}
	defaultTo(&o.Namespace, "default")
	defaultTo(&o.Budget, 50*time.Millisecond)
	defaultTo(&o.CallTimeout, max(time.Second, o.Budget))
	defaultTo(&o.LateCalls, 128)
	defaultTo(&o.Connections, 16)
	defaultTo(&o.Heartbeat, time.Second)
	defaultTo(&o.Memory, 10_000)
	defaultTo(&o.FallbackBytes, 16<<20)
	if least := min(o.Budget, o.CallTimeout, o.Heartbeat); least < time.Millisecond {
		panic(fmt.Sprintf("ratelimit: a duration of Options is %v, it must be at least 1ms", least))
	}
	if least := min(int64(o.LateCalls), int64(o.Memory), o.FallbackBytes); least < 1 {
		panic(fmt.Sprintf("ratelimit: a size of Options is %d, it must be at least 1", least))
	}
	if o.Detach == nil {
		o.Detach = func(ctx context.Context) context.Context { return ctx }
	}
	if o.TracerProvider == nil {
		o.TracerProvider = otel.GetTracerProvider()
	}
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	return o
}

func defaultTo[T comparable](field *T, value T) {
	var unset T
	if *field == unset {
		*field = value
	}
}
