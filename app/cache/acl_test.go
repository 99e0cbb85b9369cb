package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"nervous/app/cache"
	"nervous/app/servicetest"
)

// allow sets the permissions of the user "app" on all nodes.
func (b backend) allow(t *testing.T, rules ...string) {
	t.Helper()
	for _, node := range b.nodes {
		rules := append([]string{"reset", "on", ">pw", "~*", "&*", "+@all"}, rules...)
		require.NoError(t, connect(t, node).ACLSetUser(t.Context(), "app", rules...).Err())
	}
}

func asApp(s *settings) { s.User, s.Password = "app", "pw" }

// logged collects the log lines of all tests of this process. Each test looks for its own cache's name.
var logged = struct {
	sync.Mutex
	bytes.Buffer
}{}

type logWriter struct{}

func (logWriter) Write(p []byte) (int, error) {
	logged.Lock()
	defer logged.Unlock()
	return logged.Write(p)
}

func init() { slog.SetDefault(slog.New(slog.NewTextHandler(logWriter{}, nil))) } //nolint:gochecknoinits // before tests

func logLines(containing ...string) (n int) {
	logged.Lock()
	defer logged.Unlock()
	for line := range strings.Lines(logged.String()) {
		all := true
		for _, text := range containing {
			all = all && strings.Contains(line, text)
		}
		if all {
			n++
		}
	}
	return n
}

// reducedMetric reads MetricReduced by capability.
func reducedMetric(t *testing.T, reader *metric.ManualReader) map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(context.WithoutCancel(t.Context()), &all))
	values := map[string]int64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != cache.MetricReduced {
				continue
			}
			for _, p := range m.Data.(metricdata.Gauge[int64]).DataPoints {
				capability, _ := p.Attributes.Value("capability")
				values[capability.AsString()] = p.Value
			}
		}
	}
	return values
}

// Without channels everything works by polls: nothing that was done is reported as failed.
func TestCache_userWithoutChannels(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		b.allow(t, "resetchannels")
		reader := metric.NewManualReader()
		name := fmt.Sprint("without channels, nodes: ", len(b.nodes))
		began, release := make(chan struct{}, 10), make(chan string)
		options := cache.Options[string]{
			Name: name, MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)), LocalTTL: time.Hour,
			Load: func(context.Context, string) (string, error) {
				began <- struct{}{}
				return <-release, nil
			},
		}
		one := run(t, b.client(t, asApp), options)
		options.MeterProvider = nil
		other := run(t, b.client(t, asApp), options)

		eventually(t, func() bool { return reducedMetric(t, reader)["subscribe"] == 1 })
		miss := get(t.Context(), inProcess{Cache: one}, "k")
		<-began
		wait := get(t.Context(), inProcess{Cache: other}, "k")
		release <- "old"
		got := <-miss
		require.NoError(t, got.err)
		require.True(t, got.info.Stored)
		require.Equal(t, "old", (<-wait).value)
		require.Equal(t, map[string]int64{"publish": 1, "subscribe": 1}, reducedMetric(t, reader))

		// A fill that is overtaken publishes nothing, and so proves nothing.
		require.NoError(t, one.Delete(t.Context(), "k"))
		overtaken := get(t.Context(), inProcess{Cache: one}, "k")
		<-began
		require.NoError(t, other.Delete(t.Context(), "k"))
		release <- "overtaken"
		require.False(t, (<-overtaken).info.Stored)
		require.Equal(t, map[string]int64{"publish": 1, "subscribe": 1}, reducedMetric(t, reader))

		after := get(t.Context(), inProcess{Cache: other}, "k")
		<-began
		release <- "new"
		require.Equal(t, "new", (<-after).value)
		for range 5 { // no copy is served as a hit that would not hear of a deletion
			_, info, err := one.Get(t.Context(), "k")
			require.NoError(t, err)
			require.False(t, info.Local)
		}
		warnings := func(capability string) int {
			return logLines("level=WARN", "reduced mode", fmt.Sprintf("cache=%q", name), "capability="+capability)
		}
		require.Equal(t, 2, warnings("publish"), "one of each replica, and not one of each call")
		require.Equal(t, 2, warnings("subscribe"))
		require.Zero(t, logLines("in full again", fmt.Sprintf("cache=%q", name)))

		b.allow(t) // from now on it may
		require.NoError(t, one.Delete(t.Context(), "k"))
		require.Zero(t, reducedMetric(t, reader)["publish"])
		eventuallyWithin(t, 45*time.Second, func() bool { return reducedMetric(t, reader)["subscribe"] == 0 })
	})
}

func TestCache_userWithoutScriptLoad(t *testing.T) {
	for _, rule := range []string{"-script|load", "-script"} {
		t.Run(rule, func(t *testing.T) {
			onEachBackendCold(t, func(t *testing.T, b backend) {
				b.allow(t, rule)
				c := run(t, b.client(t, asApp), cache.Options[string]{Load: returns("v")})
				_, info, err := c.Get(t.Context(), "k")
				require.NoError(t, err)
				require.Equal(t, []any{cache.ResultMiss, true}, []any{info.Result, info.Stored})
				requireGet(t, c, "k", "v", cache.ResultHit)
				require.NoError(t, c.Delete(t.Context(), "k"))
				requireGet(t, c, "k", "v", cache.ResultMiss)
			})
		})
	}
}

// wrapping is a hook that wraps errors, as telemetry and retries do.
type wrapping func(error) error

func (w wrapping) DialHook(next redis.DialHook) redis.DialHook { return next }

func (w wrapping) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := next(ctx, cmd); err != nil {
			return w(err)
		}
		return nil
	}
}

func (w wrapping) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			if cmd.Err() != nil {
				cmd.SetErr(w(cmd.Err()))
			}
		}
		return err
	}
}

var wrappings = map[string]wrapping{
	"not":          nil,
	"with %w":      func(err error) error { return fmt.Errorf("call Redis: %w", err) },
	"in a join":    func(err error) error { return errors.Join(errors.New("call Redis"), err) },
	"several fold": func(err error) error { return fmt.Errorf("a: %w", errors.Join(fmt.Errorf("b: %w", err), nil)) },
}

func TestCache_refusalsOpenTheBreaker(t *testing.T) {
	for name, refuse := range map[string]func(t *testing.T, b backend){
		"WRONGPASS": func(t *testing.T, b backend) {
			t.Helper()
			b.allow(t, "resetpass", ">another")
		},
		"NOPERM": func(t *testing.T, b backend) {
			t.Helper()
			b.allow(t, "-get")
		},
	} {
		for how, wrap := range wrappings {
			t.Run(name+" wrapped "+how, func(t *testing.T) {
				t.Parallel()
				b := oneRedis(t)
				refuse(t, b)
				rdb := b.client(t, asApp)
				trips := &roundTrips{}
				rdb.AddHook(trips) // the innermost: it counts what is sent
				if wrap != nil {
					rdb = b.client(t, asApp)
					rdb.AddHook(wrap)
					rdb.AddHook(trips)
				}
				c := cache.New(rdb, cache.Options[string]{Name: "test", Load: returns("v")})
				for range 50 {
					requireGet(t, c, "k", "v", cache.ResultBypass)
				}
				require.Less(t, trips.n.Load(), int64(30), "50 requests are 100 commands and more")
			})
		}
	}
}

func TestCache_wrappedErrors(t *testing.T) {
	for how, wrap := range wrappings {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			b := backend{nodes: []*servicetest.RedisServer{servicetest.Redis(t)}} // it knows no script: NOSCRIPT is wrapped too
			rdb := b.client(t)
			if wrap != nil {
				rdb.AddHook(wrap)
			}
			c := run(t, rdb, cache.Options[string]{Load: returns("v")})
			for i := range 20 { // a miss is no failure
				requireGet(t, c, fmt.Sprint(i), "v", cache.ResultMiss)
				requireGet(t, c, fmt.Sprint(i), "v", cache.ResultHit)
				require.NoError(t, c.Delete(t.Context(), fmt.Sprint(i)))
				require.Equal(t, cache.ResultMiss, c.GetMany(t.Context(), fmt.Sprint(i))[0].Info.Result)
			}
		})
	}
}
