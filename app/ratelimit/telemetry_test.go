package ratelimit_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"nervous/app/ratelimit"
)

func TestMetrics(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		p := startProcess(t, b, settings{Replica: "one", Budget: 2 * time.Second, Deaf: true})
		for range runs.Limit + 5 {
			p.check(caller, 1, overall, runs)
		}
		p.check("user:43", 7, overall)
		by := []string{"policy", "strategy", "result", "degraded", "source"}
		require.Equal(t, map[string]float64{
			"overall exact allowed false redis": 4, "runs exact allowed false redis": 3,
			"runs exact denied false redis": 1, "runs exact denied false memory": 4,
		}, p.Metric(ratelimit.MetricDecisions, by...))
		require.Equal(t, map[string]float64{
			"exact allowed false redis": 4, "exact denied false redis": 1, "exact denied false memory": 4,
		}, p.Metric(ratelimit.MetricCheckDuration, by[1:]...))
		require.Equal(t, map[string]float64{"": 1}, p.Metric(ratelimit.MetricCallersLimited))
		require.Equal(t, map[string]float64{"": 5}, p.Metric(ratelimit.MetricCallerDenials))
		require.Equal(t, map[string]float64{"overall": 10, "runs": 3}, p.Metric(ratelimit.MetricLimit, "policy"))
		require.Equal(t, map[string]float64{"": 2}, p.Metric(ratelimit.MetricBudget))
		require.Equal(t, map[string]float64{"": 0}, p.Metric(ratelimit.MetricBreaker))

		for _, node := range b.nodes {
			require.NoError(t, node.Kill())
		}
		for range ratelimit.BreakerTrips + 1 {
			p.check("user:44", 1, overall)
		}
		require.Contains(t, p.Metric(ratelimit.MetricDecisions, by...), "overall exact allowed true fallback")
		require.Equal(t, map[string]float64{"": 1}, p.Metric(ratelimit.MetricReplicas), "itself")
		require.Equal(t, map[string]float64{"": 2}, p.Metric(ratelimit.MetricBreaker))
	})
}

// A check is part of the request that caused it, a heartbeat of none; and nothing that is told says who was limited.
func TestWhatIsToldNamesNoCaller(t *testing.T) {
	t.Parallel()
	spans, reader := tracetest.NewSpanRecorder(), metric.NewManualReader()
	tracers := trace.NewTracerProvider(trace.WithSpanProcessor(spans))
	b := oneRedis(t)
	l := b.running(t, ratelimit.Options{
		TracerProvider: tracers, MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)),
	})
	const secret = "user:the-secret-name"
	check := func(units int64, policies ...ratelimit.Policy) map[string]string {
		ctx, request := tracers.Tracer("test").Start(t.Context(), "request")
		_, err := l.Check(ctx, secret, units, compile(t, l, policies...)...)
		require.NoError(t, err)
		request.End()
		attributes := map[string]string{}
		for _, told := range spans.Ended() {
			if told.Parent().SpanID() != request.SpanContext().SpanID() {
				continue
			}
			require.Equal(t, ratelimit.SpanCheck, told.Name())
			for _, a := range told.Attributes() {
				attributes[strings.TrimPrefix(string(a.Key), "ratelimit.")] = a.Value.String()
			}
		}
		return attributes
	}
	eventually(t, func() bool { return len(spans.Ended()) > 0 })
	heartbeat := spans.Ended()[0]
	require.Equal(t, ratelimit.SpanHeartbeat, heartbeat.Name())
	require.False(t, heartbeat.Parent().IsValid())

	require.Equal(t, map[string]string{
		"policy": "runs", "strategy": "exact", "result": "allowed", "remaining": "0", "degraded": "false", "source": "redis",
	}, check(3, overall, runs))
	denied := check(1, overall, runs)
	require.Contains(t, denied, "wait")
	delete(denied, "wait")
	require.Equal(t, map[string]string{
		"policy": "runs", "strategy": "exact", "result": "denied", "remaining": "0", "degraded": "false", "source": "redis",
	}, denied)
	// Until its own subscription is no longer news to it.
	eventually(t, func() bool { return check(1, overall, runs)["source"] == "memory" })
	require.NoError(t, connect(t, b.nodes[0]).Set(t.Context(), ratelimit.Key(secret, overall), "no log", 0).Err())
	degraded := check(1, overall)
	require.Equal(t, "true", degraded["degraded"], "Redis answers with an error")
	require.NoError(t, b.nodes[0].Kill())
	require.Equal(t, "fallback", check(1, overall)["source"])

	var metrics metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(context.WithoutCancel(t.Context()), &metrics))
	everything := fmt.Sprintf("%+v", metrics)
	for _, span := range spans.Ended() {
		everything += fmt.Sprintf("%s %+v %+v %+v", span.Name(), span.Attributes(), span.Events(), span.Status())
	}
	require.Contains(t, everything, "overall")
	require.NotContains(t, everything, "the-secret-name")
}
