package cache_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"nervous/app/cache"
	"nervous/app/servicetest"
)

// The benchmarks compare within one run, and assert nothing: a figure is worth as much as the machine was idle.
//
//	go test -run '^$' -bench 'Hit|Many' -benchtime 5000x ./app/cache
//	go test -run '^$' -bench 'Waiter|Expiry' -benchtime 20x ./app/cache

// post is one of ten on a list of the size that the service remembers: 2.5 KB as JSON.
type post struct {
	ID, Score, Views, Comments, Shares int64
	Title, Author                      string
	CreatedAt                          time.Time
}

func topTen(context.Context, string) ([]post, error) {
	posts := make([]post, 10)
	for i := range posts {
		posts[i] = post{
			ID: int64(100_000 + i), Score: 54_321, Views: 12_345, Comments: 678, Shares: 90,
			Title: strings.Repeat("A headline. ", 10), Author: fmt.Sprint("Author ", i),
			CreatedAt: time.Date(2026, 11, 22, 12, 0, i, 0, time.UTC),
		}
	}
	return posts, nil
}

// headerSize is how many bytes the cache keeps in front of the JSON.
const headerSize = 67

// What a hit costs above a bare GET of the same bytes; BareGetAndDecode is what it would cost without any cache around.
func BenchmarkHit(b *testing.B) {
	rdb := benchClient(b, servicetest.Redis(b))
	var key string // where Redis keeps it
	ask := func(options cache.Options[[]post]) func() error {
		options.Name, options.Load, options.TTL = "bench", topTen, 24*time.Hour
		c := cache.New(rdb, options)
		key = c.ValueKey("top")
		go func() { _ = c.Run(b.Context()) }() // it covers the copies
		return func() error { return onlyHits(c.Get(b.Context(), "top")) }
	}
	hit := ask(cache.Options[[]post]{})
	readThrough := cache.NewReadThrough(rdb, cache.Options[[]post]{Name: "bench", Load: topTen, TTL: 24 * time.Hour})
	stored := func() ([]byte, error) { return rdb.Get(b.Context(), key).Bytes() }
	bare := func() error {
		_, err := stored()
		return err
	}
	require.Error(b, hit(), "the first is a miss") // and fills
	require.Error(b, onlyHits(readThrough.Get(b.Context(), "top")))

	for _, way := range []struct {
		name string
		get  func() error
	}{
		{"BareGet", bare},
		{"BareGetAndDecode", func() error {
			encoded, err := stored()
			if err != nil {
				return err
			}
			var posts []post
			return json.Unmarshal(encoded[headerSize:], &posts)
		}},
		{"ReadThrough", func() error { return onlyHits(readThrough.Get(b.Context(), "top")) }},
		{"Cache", hit},
		// Spans are recorded and metrics counted, but nothing is exported: what the caller itself pays.
		{"CacheTraced", ask(cache.Options[[]post]{
			TracerProvider: sdktrace.NewTracerProvider(),
			MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader())),
		})},
		{"LocalCopy", ask(cache.Options[[]post]{LocalTTL: time.Hour})},
	} {
		b.Run(way.name, func(b *testing.B) { against(b, "x_bare_get", bare, way.get) })
	}
}

// Thirty keys in one round-trip, against thirty round-trips.
func BenchmarkGetMany(b *testing.B) {
	rdb := benchClient(b, servicetest.Redis(b))
	c := cache.New(rdb, cache.Options[[]post]{Name: "bench", Load: topTen, TTL: 24 * time.Hour})
	var keys []string
	for i := range 30 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	for _, answer := range c.GetMany(b.Context(), keys...) {
		require.NoError(b, answer.Err)
	}
	oneByOne := func() error {
		var missed []error
		for _, key := range keys {
			missed = append(missed, onlyHits(c.Get(b.Context(), key)))
		}
		return errors.Join(missed...)
	}
	against(b, "x_30_gets", oneByOne, func() error {
		var missed []error
		for _, answer := range c.GetMany(b.Context(), keys...) {
			missed = append(missed, onlyHits(answer.Value, answer.Info, answer.Err))
		}
		return errors.Join(missed...)
	})
}

// onlyHits keeps a benchmark from measuring something else than it says.
func onlyHits[V any](_ V, info cache.Info, err error) error {
	if err == nil && info.Result != cache.ResultHit {
		err = fmt.Errorf("a %s, and not a hit", info.Result)
	}
	return err
}

func benchClient(b *testing.B, server *servicetest.RedisServer) *redis.Client {
	b.Helper()
	client := redis.NewClient(server.Options())
	b.Cleanup(func() { _ = client.Close() })
	return client
}
