package telemetry

import (
	"context"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// redisHook describes, times and counts each command inside the span that redisotel has started for it.
type redisHook struct {
	*costs
	wire      *wire
	tracer    trace.Tracer
	namespace attribute.KeyValue
	known     memo[command, described]
}

// described is what is said about a command, made once for all its calls.
type described struct {
	operation
	attributes []attribute.KeyValue
	// forConnection: it serves every later user of the connection, so the request that happened to open it is not
	// charged.
	forConnection bool
}

// DialHook marks the span of a dial as Redis's, and reads along on the connection.
func (h *redisHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		trace.SpanFromContext(ctx).SetAttributes(h.system)
		conn, err := next(ctx, network, address)
		if err != nil {
			return conn, err
		}
		if address == failoverAddr {
			trace.SpanFromContext(ctx).SetAttributes(serverOf(conn.RemoteAddr().String())...)
		}
		return h.readAlong(conn), nil
	}
}

// ProcessHook sees one command.
func (h *redisHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		begun := time.Now()
		err := next(ctx, cmd)
		h.finish(ctx, time.Since(begun), h.known.get(commandOf(cmd), h.describe), err)
		return veil(err)
	}
}

// ProcessPipelineHook sees a pipeline, or a transaction with its MULTI and EXEC.
func (h *redisHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		begun := time.Now()
		err := next(ctx, cmds)
		took := time.Since(begun)
		h.finish(ctx, took, h.describePipeline(cmds), firstFault(cmds, err))
		return veil(err)
	}
}

// finish books the call and describes its span.
func (h *redisHook) finish(ctx context.Context, took time.Duration, call described, err error) {
	fault, miss := redisFault(err)
	trips := int64(1)
	if err != nil && neverSent(err) {
		trips = 0
	}
	if call.forConnection {
		h.chargeNobody(ctx, trips)
	} else {
		h.charge(ctx, trips, took)
	}
	call.fault = fault.kind
	h.took(ctx, took, call.operation)

	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	span.SetName(call.name)
	span.SetAttributes(call.attributes...)
	if miss {
		span.SetAttributes(SpanRedisMiss.Bool(true))
	}
	if trips == 0 {
		span.SetAttributes(SpanRoundTrips.Int64(0))
	}
	fault.describe(span)
}

func (h *redisHook) describe(c command) described {
	o := c.operation()
	attributes := []attribute.KeyValue{
		h.system, h.namespace, semconv.DBOperationName(o.name), SpanRoundTrips.Int64(1)}
	return described{
		operation:     o,
		attributes:    appendKnown(attributes, semconv.DBStoredProcedureNameKey, o.procedure),
		forConnection: c.setsUpConnection(),
	}
}

func (h *redisHook) describePipeline(cmds []redis.Cmder) described {
	var contents contents
	var last command
	var inCapitals string
	for _, cmd := range cmds {
		if c := commandOf(cmd); c != last { // mostly it is the same a thousand times
			last, inCapitals = c, h.known.get(c, h.describe).name
		}
		contents.add(inCapitals)
	}
	first, size := commandOf(cmds[0]), len(cmds)
	name := "PIPELINE"
	switch {
	case first.name == "multi":
		name, size = "MULTI", size-2 // MULTI and EXEC are not the caller's
	case len(contents.names) == 1:
		name += " " + contents.names[0]
	}
	attributes := []attribute.KeyValue{
		h.system, h.namespace, semconv.DBOperationName(name), SpanRoundTrips.Int64(1),
		SpanCallNames.StringSlice(contents.names), SpanCallCounts.Int64Slice(contents.counts)}
	if size > 1 {
		attributes = append(attributes, semconv.DBOperationBatchSize(size))
	}
	return described{
		operation:     operation{name: name},
		attributes:    attributes,
		forConnection: first.setsUpConnection(),
	}
}
