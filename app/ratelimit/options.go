package ratelimit

import (
	"context"
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

	// Budget is how long Redis may take for a check until it is decided without. Every request pays it, so it is less
	// than what a cache may wait for its answer. Defaults to 50 ms.
	Budget time.Duration

	// Heartbeat is how often replicas say that they live; five that fail to come mean that one does not. It matters only
	// to the Local fallback. Defaults to one second.
	Heartbeat time.Duration

	// Memory is how many denials this process remembers, and for how many callers and policies it can stand in for
	// Redis: about 300 bytes for the one, and eight bytes for each unit of the other. Defaults to 10,000.
	Memory int

	// Detach prepares the context of the work that no check has caused, for example by giving it a tally of its own.
	// Defaults to leaving it as it is.
	Detach func(context.Context) context.Context

	// TracerProvider and MeterProvider default to the global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider

	// clock replaces Redis's where a test is about time.
	clock func() time.Time
}

func (o Options) withDefaults() Options {
	if o.Replica == "" {
		panic("ratelimit: Options need a Replica")
	}
	defaultTo(&o.Budget, 50*time.Millisecond)
	defaultTo(&o.Heartbeat, time.Second)
	defaultTo(&o.Memory, 10_000)
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
