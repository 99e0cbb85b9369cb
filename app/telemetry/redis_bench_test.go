package telemetry

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/metric"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"

	"nervous/app/roundtrips"
	"nervous/app/servicetest"
)

// What telemetry costs on the cache's hit path, which is one GET. Ratios only mean something within one run:
//
//	go test -run - -bench Redis -benchmem -cpu 1 -count 6 ./app/telemetry
func BenchmarkRedisGet(b *testing.B) {
	eachTelemetry(b, func(b *testing.B, ctx context.Context, client *redis.Client) {
		require.NoError(b, client.Set(ctx, "k", "v", 0).Err())
		for b.Loop() {
			if err := client.Get(ctx, "k").Err(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A pipeline of 1,000, as the write buffer sends them.
func BenchmarkRedisPipeline(b *testing.B) {
	eachTelemetry(b, func(b *testing.B, ctx context.Context, client *redis.Client) {
		for b.Loop() {
			_, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
				for i := range 1000 {
					p.SAdd(ctx, "s", i)
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func eachTelemetry(b *testing.B, measure func(*testing.B, context.Context, *redis.Client)) {
	address := servicetest.Redis(b).Addr()
	meters := sdkmetric.NewMeterProvider(
		sdkmetric.WithReader(sdkmetric.NewManualReader()), sdkmetric.WithView(view))
	counting, err := newSpanCounter(meters)
	require.NoError(b, err)
	tracers := sdktrace.NewTracerProvider(append(sampling(),
		sdktrace.WithSpanProcessor(counting), sdktrace.WithBatcher(discard{}))...)
	for _, telemetry := range []struct {
		name    string
		tracers trace.TracerProvider
		meters  metric.MeterProvider
	}{
		{"none", nil, nil},
		{"off", nooptrace.NewTracerProvider(), noopmetric.NewMeterProvider()},
		{"metrics", nooptrace.NewTracerProvider(), meters},
		{"everything", tracers, meters},
	} {
		b.Run(telemetry.name, func(b *testing.B) {
			options := &redis.Options{Addr: address}
			RedisOptions(options)
			client := redis.NewClient(options)
			defer client.Close()
			if telemetry.tracers != nil {
				wire, err := newWire(telemetry.meters)
				require.NoError(b, err)
				require.NoError(b, instrumentRedis(client, wire, telemetry.tracers, telemetry.meters))
			}
			tally := roundtrips.New("GET /posts/trending")
			tally.SetStrategy("lease")
			b.ReportAllocs()
			measure(b, roundtrips.With(b.Context(), tally), client)
		})
	}
}

// discard is the exporter whose cost is not ours.
type discard struct{}

func (discard) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (discard) Shutdown(context.Context) error                             { return nil }
