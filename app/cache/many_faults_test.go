package cache_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"nervous/app/cache"
)

func TestCache_GetMany(t *testing.T) {
	t.Run("a node that is down does not matter to keys of the others", func(t *testing.T) {
		t.Parallel()
		b := oneCluster(t)
		registry := b.owner(t, "default:versions:test")
		down := withoutNode(b.nodes, registry)[0]
		var there, gone []string
		for i := range 60 {
			key := fmt.Sprint("k", i)
			if b.owner(t, key) == down {
				gone = append(gone, key)
			} else {
				there = append(there, key)
			}
		}
		options := cache.Options[string]{Load: returns("v"), TTL: time.Hour}
		c := run(t, b.client(t), options)
		for _, a := range c.GetMany(t.Context(), there[:10]...) {
			require.Equal(t, cache.ResultMiss, a.Info.Result)
		}
		require.NoError(t, down.Kill())
		answers := c.GetMany(t.Context(), append(gone, there...)...)
		for i, a := range answers {
			require.NoError(t, a.Err)
			require.Equal(t, "v", a.Value)
			switch wanted := i - len(gone); {
			case wanted < 0:
				require.Equal(t, cache.ResultBypass, a.Info.Result)
			case wanted < 10:
				require.Equal(t, cache.ResultHit, a.Info.Result)
			default:
				require.Equal(t, []any{cache.ResultMiss, true}, []any{a.Info.Result, a.Info.Stored})
			}
		}
		for range 3 {
			for _, a := range c.GetMany(t.Context(), there...) {
				require.NoError(t, a.Err)
				require.Equal(t, cache.ResultHit, a.Info.Result)
			}
		}
		for range 50 { // also when the down node's failures come thick
			require.NoError(t, c.GetMany(t.Context(), append(gone[:5:5], there...)...)[5].Err)
			for _, key := range append(gone[:10:10], there[0]) {
				_, info, err := c.Get(t.Context(), key)
				require.NoError(t, err)
				require.Equal(t, key == there[0], info.Result == cache.ResultHit, "%s: %s", key, info.Result)
			}
		}
	})

	t.Run("a key that is asked for twice is filled once", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			c := run(t, b.client(t), cache.Options[string]{Load: counting()})
			answers := c.GetMany(t.Context(), "k", "k", "k")
			for _, a := range answers {
				require.NoError(t, a.Err)
				require.Equal(t, "1", a.Value)
			}
			for _, a := range c.GetMany(t.Context(), "k", "k") {
				require.Equal(t, []any{"1", cache.ResultHit}, []any{a.Value, a.Info.Result})
			}
			require.Empty(t, c.GetMany(t.Context()))
		})
	})

	t.Run("a hit starts no goroutine, and a miss one", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			var tracer goroutines
			c := run(t, b.client(t), cache.Options[string]{Load: returns("v"), TracerProvider: &tracer})
			keys := []string{"a", "b", "c", "d"}
			c.GetMany(t.Context(), keys...)
			require.Len(t, tracer.of(cache.SpanGet), len(keys))
			c.GetMany(t.Context(), keys...)
			require.Equal(t, map[string]bool{goroutine(): true}, tracer.of(cache.SpanGet))
			require.NoError(t, c.Delete(t.Context(), "a"))
			c.GetMany(t.Context(), keys...)
			require.Len(t, tracer.of(cache.SpanGet), 2)
		})
	})
}

// goroutines is a tracer that notes where spans are started.
type goroutines struct {
	noop.TracerProvider

	mu    sync.Mutex
	where map[string]map[string]bool
}

// of returns the goroutines that have started spans of that name since the last call.
func (g *goroutines) of(name string) map[string]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	where := g.where[name]
	g.where = nil
	return where
}

func (g *goroutines) Tracer(string, ...trace.TracerOption) trace.Tracer {
	return spanStarts{goroutines: g}
}

type spanStarts struct {
	noop.Tracer

	*goroutines
}

func (s spanStarts) Start(
	ctx context.Context, name string, options ...trace.SpanStartOption,
) (context.Context, trace.Span) {
	s.mu.Lock()
	if s.where == nil {
		s.where = map[string]map[string]bool{}
	}
	if s.where[name] == nil {
		s.where[name] = map[string]bool{}
	}
	s.where[name][goroutine()] = true
	s.mu.Unlock()
	return s.Tracer.Start(ctx, name, options...)
}

func goroutine() string {
	stack := make([]byte, 64)
	return string(bytes.Fields(stack[:runtime.Stack(stack, false)])[1]) // "goroutine 18 [running]:"
}
