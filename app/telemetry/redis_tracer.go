package telemetry

import (
	"context"
	"net"
	"strconv"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// redisTracers stand between redisotel and the SDK: redisotel begins its spans with names that the conventions have
// given up (db.system, db.connection_string, db.redis.num_cmd), and what a span was begun with cannot be taken away
// again. Here it begins with the server alone; the hook inside says the rest, by today's names.
type redisTracers struct {
	trace.TracerProvider
	begin []trace.SpanStartOption
}

// failoverAddr is what a failover client has for an address: the master's is known when it is dialled.
const failoverAddr = "FailoverClient"

func tracersFor(o *redis.Options, tracers trace.TracerProvider) redisTracers {
	begin := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient)}
	if o.Addr != failoverAddr {
		begin = append(begin, trace.WithAttributes(serverOf(o.Addr)...))
	}
	return redisTracers{tracers, begin}
}

// serverOf describes an address; of a socket it is the path.
func serverOf(addr string) []attribute.KeyValue {
	server := []attribute.KeyValue{semconv.ServerAddress(addr)}
	if host, text, err := net.SplitHostPort(addr); err == nil {
		server[0] = semconv.ServerAddress(host)
		if port, err := strconv.Atoi(text); err == nil {
			server = append(server, semconv.ServerPort(port))
		}
	}
	return server
}

// Tracer wraps the SDK's.
func (t redisTracers) Tracer(name string, options ...trace.TracerOption) trace.Tracer {
	return redisTracer{t.TracerProvider.Tracer(name, options...), t.begin}
}

type redisTracer struct {
	trace.Tracer
	begin []trace.SpanStartOption
}

// Start begins a span.
func (t redisTracer) Start(
	ctx context.Context, name string, _ ...trace.SpanStartOption,
) (context.Context, trace.Span) {
	return t.Tracer.Start(ctx, name, t.begin...)
}
