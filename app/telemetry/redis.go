package telemetry

import (
	"fmt"
	"strconv"

	"github.com/redis/go-redis/extra/redisotel/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"nervous/app/roundtrips"
)

// RedisOptions sets what a client needs so that every command is seen, counted once and bounded in time: for one
// server, for Sentinel and for a Cluster. Call it before the client is made; a timeout is the caller's choice.
//
// A client of a Cluster still follows MOVED and ASK (ClusterOptions.MaxRedirects). On that path go-redis also repeats a
// command whose connection was lost, and no option keeps it from that.
func RedisOptions[O redis.Options | redis.FailoverOptions | redis.ClusterOptions](options *O) {
	// A retry hides inside one span, and repeats writes: one INCR that timed out may count twice.
	const noRetries, oneDial = -1, 1
	// ContextTimeoutEnabled: without it a context's deadline does not reach the socket: a hung server held a 100 ms
	// context for 5 s. DisableIdentity, and no maintenance notifications: Redis before 7.2 knows neither and would answer
	// each connect with errors.
	quiet := &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	switch o := any(options).(type) {
	case *redis.Options:
		o.MaxRetries, o.DialerRetries = noRetries, oneDial
		o.ContextTimeoutEnabled, o.DisableIdentity, o.MaintNotificationsConfig = true, true, quiet
	case *redis.FailoverOptions: // it knows no maintenance notifications
		o.MaxRetries, o.DialerRetries = noRetries, oneDial
		o.ContextTimeoutEnabled, o.DisableIdentity = true, true
	case *redis.ClusterOptions:
		o.MaxRetries, o.DialerRetries = noRetries, oneDial
		o.ContextTimeoutEnabled, o.DisableIdentity, o.MaintNotificationsConfig = true, true, quiet
	}
}

// Redis instruments a client: call it once, before the client's first command. A *redis.ClusterClient gets it for each
// of its nodes, so a redirected command is two spans, one of them failed. A failover client's own questions to the
// Sentinels are no spans: they are calls to other servers than the one that has the data.
//
// Every command, pipeline and transaction is a span and a round-trip, also those that go-redis sends on its own to set
// up a connection. A dial is a span, the root of a trace of its own (go-redis dials apart from the request), and no
// round-trip. What a subscribed connection sends (SUBSCRIBE, UNSUBSCRIBE, PING) passes by go-redis's hooks and is read
// off the wire: a span too, a root of its own, and no round-trip, because nobody waits for the answer. Messages that
// arrive are no calls.
func Redis(client redis.UniversalClient) error {
	wire, err := newWire(otel.GetMeterProvider())
	if err != nil {
		return err
	}
	process.watch(wire)
	return instrumentRedis(client, wire, otel.GetTracerProvider(), otel.GetMeterProvider())
}

func instrumentRedis(
	client redis.UniversalClient, wire *wire, tracers trace.TracerProvider, meters metric.MeterProvider,
) error {
	book, err := newCosts(roundtrips.Redis, semconv.DBSystemNameRedis, meters)
	if err != nil {
		return err
	}
	switch client := client.(type) {
	case *redis.Client:
		return addRedisHooks(client, book, wire, tracers)
	case *redis.ClusterClient:
		client.OnNewNode(func(node *redis.Client) {
			if err := addRedisHooks(node, book, wire, tracers); err != nil {
				otel.Handle(err)
			}
		})
		return nil
	}
	return fmt.Errorf("instrument Redis: %T is not supported", client)
}

// addRedisHooks adds three hooks; the one added first is outermost. redisotel starts and ends the span. Ours inside it
// sees that span and describes it; ours outside it gives the caller back the error that the inner one hid.
func addRedisHooks(client *redis.Client, book *costs, wire *wire, tracers trace.TracerProvider) error {
	ours := tracersFor(client.Options(), tracers)
	client.AddHook(unveilErrors{})
	err := redisotel.InstrumentTracing(client,
		redisotel.WithTracerProvider(ours),
		redisotel.WithDBStatement(false), // the statement is every key and value, a lock's token among them
		redisotel.WithCallerEnabled(false),
		// By default it starts no span for a HELLO that carries a password, lest the statement showed it. Then our
		// inner hook would describe the caller's span instead.
		redisotel.WithCommandFilter(func(redis.Cmder) bool { return false }),
		redisotel.WithCommandsFilter(func([]redis.Cmder) bool { return false }),
	)
	client.AddHook(&redisHook{
		costs: book, wire: wire, tracer: ours.Tracer(scope),
		namespace: semconv.DBNamespace(strconv.Itoa(client.Options().DB)),
	})
	return err
}
