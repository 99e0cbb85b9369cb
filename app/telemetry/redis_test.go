package telemetry

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"nervous/app/roundtrips"
	"nervous/app/servicetest"
)

// newRedis returns an instrumented client of a Redis of the test's own.
func newRedis(t *testing.T, r *recorder, adjust ...func(*redis.Options)) *redis.Client {
	t.Helper()
	options := &redis.Options{Addr: servicetest.Redis(t).Addr()}
	RedisOptions(options)
	for _, a := range adjust {
		a(options)
	}
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	require.NoError(t, instrumentRedis(client, r.wire, r.tracers, r.meters))
	return client
}

var lease = redis.NewScript(`if redis.call('exists', KEYS[1]) == 1 then return ARGV[1] end return false`)

func TestRedisSpanSpeaksTodaysNames(t *testing.T) {
	t.Parallel()
	RedisScript("lease", lease)
	r := record(t)
	client := newRedis(t, r)
	require.NoError(t, lease.Load(t.Context(), client).Err())
	require.NoError(t, client.Set(t.Context(), "k", "v", 0).Err())
	require.NoError(t, lease.Run(t.Context(), client, []string{"k"}, "token").Err())
	_, err := client.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		p.Incr(t.Context(), "n")
		p.Incr(t.Context(), "n")
		return nil
	})
	require.NoError(t, err)

	set := attributes(r.only("SET").Attributes)
	require.Equal(t, "redis", set[semconv.DBSystemNameKey])
	require.Equal(t, "SET", set[semconv.DBOperationNameKey])
	require.Equal(t, "0", set[semconv.DBNamespaceKey])
	require.Equal(t, "127.0.0.1", set[semconv.ServerAddressKey])
	require.EqualValues(t, 1, set[SpanRoundTrips])

	require.Equal(t, "lease", attributes(r.only("EVALSHA").Attributes)[semconv.DBStoredProcedureNameKey])
	r.only("SCRIPT LOAD")

	pipeline := attributes(r.only("PIPELINE INCR").Attributes)
	require.EqualValues(t, 2, pipeline[semconv.DBOperationBatchSizeKey])
	require.Equal(t, []string{"INCR"}, pipeline[SpanCallNames])
	require.Equal(t, []int64{2}, pipeline[SpanCallCounts])

	require.EqualValues(t, 1, r.durations()["SET"])
	require.EqualValues(t, 1, r.counter(TelemetrySpans, "system", "operation")["redis PIPELINE INCR"])
}

func TestRedisMissIsNoError(t *testing.T) {
	t.Parallel()
	r := record(t)
	client := newRedis(t, r)
	require.ErrorIs(t, client.Get(t.Context(), "absent").Err(), redis.Nil)
	span := r.only("GET")
	require.Equal(t, codes.Unset, span.Status.Code)
	require.Equal(t, true, attributes(span.Attributes)[SpanRedisMiss])
	require.NotContains(t, attributes(span.Attributes), semconv.ErrorTypeKey)

	// In a pipeline a miss must not hide the fault that follows it.
	require.NoError(t, client.Set(t.Context(), "text", "v", 0).Err())
	_, err := client.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		p.Get(t.Context(), "absent")
		p.Incr(t.Context(), "text")
		return nil
	})
	require.ErrorIs(t, err, redis.Nil)
	pipeline := r.only("PIPELINE")
	require.Equal(t, codes.Error, pipeline.Status.Code)
	require.Equal(t, "ERR", attributes(pipeline.Attributes)[semconv.DBResponseStatusCodeKey])
}

func TestRedisCallsAreChargedToTheirTally(t *testing.T) {
	t.Parallel()
	r := record(t)
	client := newRedis(t, r, func(o *redis.Options) {
		o.OnConnect = func(ctx context.Context, conn *redis.Conn) error { return lease.Load(ctx, conn).Err() }
	})
	tally := roundtrips.New("GET /posts/trending")
	tally.SetStrategy("lease")
	ctx := roundtrips.With(t.Context(), tally)
	require.ErrorIs(t, client.Get(ctx, "absent").Err(), redis.Nil)
	require.EqualValues(t, 1, tally.Count(roundtrips.Redis), "HELLO and SCRIPT LOAD serve later requests too")
	require.Positive(t, tally.Time(roundtrips.Redis))
	require.NoError(t, client.Set(t.Context(), "k", "v", 0).Err())
	require.Equal(t, map[string]int64{
		"redis GET /posts/trending lease": 1,
		"redis background":                3, // HELLO, SCRIPT LOAD, and the SET that nobody counts
	}, r.counter(StoreRoundTrips, "store", "operation", "strategy"))
}

// Servers quote arguments in their errors, and redisotel writes errors into spans.
func TestNothingOfWhatWasStoredIsExported(t *testing.T) {
	t.Parallel()
	r := record(t)
	client := newRedis(t, r)
	ctx := t.Context()
	for _, err := range []error{
		client.Set(ctx, "secret", "secret", 0).Err(),
		client.Set(ctx, "secret:list", "secret", 0).Err(),
		client.Eval(ctx, `return 'secret'`, []string{"secret"}, "secret").Err(),
	} {
		require.NoError(t, err)
	}
	quoted := client.Do(ctx, "nosuchcommand", "secret").Err()
	require.ErrorContains(t, quoted, "secret", "the caller is given the server's own words")
	require.ErrorContains(t, client.Eval(ctx, `return redis.error_reply('secret')`, nil).Err(), "secret")
	_, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Do(ctx, "nosuchcommand", "secret")
		return nil
	})
	require.ErrorContains(t, err, "secret")
	require.ErrorContains(t, client.LPush(ctx, "secret", "secret").Err(), "WRONGTYPE")

	exported := r.everything()
	require.Contains(t, exported, "WRONGTYPE")
	require.NotContains(t, exported, "secret")
}

func TestHelloThatCarriesAPasswordIsDescribedOnItsOwnSpan(t *testing.T) {
	t.Parallel()
	r := record(t)
	client := newRedis(t, r)
	require.NoError(t, client.ConfigSet(t.Context(), "requirepass", "secret").Err())
	options := *client.Options()
	options.Password = "secret"
	second := redis.NewClient(&options)
	t.Cleanup(func() { _ = second.Close() })
	require.NoError(t, instrumentRedis(second, r.wire, r.tracers, r.meters))

	ctx, request := r.tracers.Tracer("test").Start(t.Context(), "request")
	require.NoError(t, second.Set(ctx, "k", "v", 0).Err())
	request.End()
	require.Empty(t, r.only("request").Attributes)
	require.Len(t, r.spans(named("HELLO")), 2)
	require.NotContains(t, strings.ReplaceAll(r.everything(), "CONFIG SET", ""), "secret")
}

func TestWhatNeverReachedRedisIsNoRoundTrip(t *testing.T) {
	t.Parallel()
	r := record(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close()) // so the port refuses
	client := newRedis(t, r, func(o *redis.Options) { o.Addr = listener.Addr().String() })
	tally := roundtrips.New("test")
	require.Error(t, client.Get(roundtrips.With(t.Context(), tally), "k").Err())
	require.Zero(t, tally.Count(roundtrips.Redis))
	span := r.only("GET")
	require.EqualValues(t, 0, attributes(span.Attributes)[SpanRoundTrips])
	require.Equal(t, codes.Error, span.Status.Code)
	require.Empty(t, r.counter(TelemetryCalls, "operation"))
	require.Equal(t, codes.Error, r.only("redis.dial").Status.Code)
}

// The demonstration of RedisOptions: without them this takes five seconds.
func TestHungRedisObeysTheContext(t *testing.T) {
	t.Parallel()
	r := record(t)
	server := servicetest.Redis(t)
	options := &redis.Options{Addr: server.Addr()}
	RedisOptions(options)
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	require.NoError(t, instrumentRedis(client, r.wire, r.tracers, r.meters))
	require.NoError(t, client.Set(t.Context(), "k", "v", 0).Err())
	require.NoError(t, server.Pause())

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	require.Error(t, client.Get(ctx, "k").Err())
	require.Less(t, time.Since(begun), 2*time.Second)
	require.Equal(t, "timeout", attributes(r.only("GET").Attributes)[semconv.ErrorTypeKey])
	require.EqualValues(t, 1, attributes(r.only("GET").Attributes)[SpanRoundTrips], "it was sent")
	require.NoError(t, server.Resume())
}

func TestClusterNodesAreInstrumented(t *testing.T) {
	t.Parallel()
	server, err := servicetest.StartRedis(t.Context(), servicetest.Options{
		Settings: map[string]string{"cluster-enabled": "yes", "save": ""},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	node := redis.NewClient(server.Options())
	t.Cleanup(func() { _ = node.Close() })
	require.NoError(t, node.ClusterAddSlotsRange(t.Context(), 0, 16383).Err())
	require.Eventually(t, func() bool {
		return strings.Contains(node.ClusterInfo(t.Context()).Val(), "cluster_state:ok")
	}, 30*time.Second, 20*time.Millisecond)

	r := record(t)
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{server.Addr()}, DisableIdentity: true})
	t.Cleanup(func() { _ = cluster.Close() })
	require.NoError(t, instrumentRedis(cluster, r.wire, r.tracers, r.meters))
	require.NoError(t, cluster.Set(t.Context(), "k", "v", 0).Err())
	_, err = cluster.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		p.Get(t.Context(), "k")
		p.Get(t.Context(), "{k}2")
		return nil
	})
	require.ErrorIs(t, err, redis.Nil)
	require.EqualValues(t, 1, attributes(r.only("SET").Attributes)[SpanRoundTrips])
	require.EqualValues(t, 2, attributes(r.only("PIPELINE GET").Attributes)[semconv.DBOperationBatchSizeKey])
}

func TestDurationsLeadToTheirTrace(t *testing.T) {
	t.Parallel()
	r := record(t)
	client := newRedis(t, r)
	require.NoError(t, client.Set(t.Context(), "k", "v", 0).Err())
	span := r.only("SET").SpanContext
	histogram := r.metrics()["db.client.operation.duration"].Data.(metricdata.Histogram[float64])
	var traces []string
	for _, point := range histogram.DataPoints {
		if name, _ := point.Attributes.Value(semconv.DBOperationNameKey); name.AsString() != "SET" {
			continue
		}
		for _, exemplar := range point.Exemplars {
			traces = append(traces, attribute.String("", string(exemplar.TraceID)).Value.AsString())
		}
	}
	id := span.TraceID()
	require.Equal(t, []string{string(id[:])}, traces)
}
