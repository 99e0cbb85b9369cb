package ratelimit

import (
	"context"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// The instruments. None of them knows a caller.
const (
	// MetricDecisions counts verdicts {decision}, by policy, strategy, result (allowed, denied), degraded and source: one
	// for each policy of what is allowed, and of what is denied one for each policy that refuses.
	MetricDecisions = "ratelimit.decisions"
	// MetricCheckDuration is the time of a check in seconds, by strategy, result, degraded and source.
	MetricCheckDuration = "ratelimit.check.duration"
	// MetricLimit is how many units a policy holds {unit}, by policy.
	MetricLimit = "ratelimit.limit"
	// MetricCallerSpent is the most that any one caller was seen to have spent of a window since metrics were last
	// collected {unit}, by policy and strategy.
	MetricCallerSpent = "ratelimit.caller.spent"
	// MetricCallersLimited is how many callers this replica remembers as denied {caller}. Replicas may remember the same.
	MetricCallersLimited = "ratelimit.callers.limited"
	// MetricCallerDenials is how often the most persistent one of them was denied {denial}.
	MetricCallerDenials = "ratelimit.caller.denials"
	// MetricReplicas is how many replicas were alive when this one last heard {replica}.
	MetricReplicas = "ratelimit.replicas"
	// MetricBudget is how long Redis may take for a check, in seconds.
	MetricBudget = "ratelimit.budget"
	// MetricReduced is 1 while Redis refuses a capability and the limiter works without it, by capability (publish,
	// subscribe) {capability}.
	MetricReduced = "ratelimit.reduced"
	// MetricBreaker is the state of the breaker in front of Redis: 0 closed, 1 half open, 2 open {state}.
	MetricBreaker = "ratelimit.breaker.state"
)

const (
	resultAllowed = "allowed"
	resultDenied  = "denied"
)

// The spans: a check, and a heartbeat, which is the root of a trace of its own.
const (
	SpanCheck     = "ratelimit.check"
	SpanHeartbeat = "ratelimit.heartbeat"
)

const scope = "nervous/app/ratelimit"

// instruments is this package's telemetry as a few verbs, so that the decision reads without it.
type instruments struct {
	tracer trace.Tracer
	meter  metric.Meter

	decisions metric.Int64Counter
	checkTime metric.Float64Histogram
	limit     metric.Int64ObservableGauge
	spent     metric.Int64ObservableGauge
	limited   metric.Int64ObservableGauge
	denials   metric.Int64ObservableGauge
	replicas  metric.Int64ObservableGauge
	budget    metric.Float64ObservableGauge
	reduced   metric.Int64ObservableGauge
	breaker   metric.Int64Gauge

	mu sync.Mutex
	// limits are the policies that were seen, and most is the most that a caller had spent of each.
	limits map[string]int64
	most   map[counted]int64
}

// counted is a policy by a strategy.
type counted struct {
	policy   string
	strategy Strategy
}

func newInstruments(tracers trace.TracerProvider, meters metric.MeterProvider) *instruments {
	meter := meters.Meter(scope)
	t := &instruments{
		tracer: tracers.Tracer(scope), meter: meter, limits: map[string]int64{}, most: map[counted]int64{},
	}
	// The constructors fail only for names that are not allowed; they return a working no-op even then.
	t.decisions, _ = meter.Int64Counter(MetricDecisions, metric.WithUnit("{decision}"),
		metric.WithDescription("What policies said."))
	t.checkTime, _ = meter.Float64Histogram(MetricCheckDuration, metric.WithUnit("s"),
		metric.WithDescription("Time of a check."))
	t.limit, _ = meter.Int64ObservableGauge(MetricLimit, metric.WithUnit("{unit}"),
		metric.WithDescription("What one caller may spend in a window."))
	t.spent, _ = meter.Int64ObservableGauge(MetricCallerSpent, metric.WithUnit("{unit}"),
		metric.WithDescription("The most that any one caller was seen to have spent of its window."))
	t.limited, _ = meter.Int64ObservableGauge(MetricCallersLimited, metric.WithUnit("{caller}"),
		metric.WithDescription("Callers that are remembered as denied."))
	t.denials, _ = meter.Int64ObservableGauge(MetricCallerDenials, metric.WithUnit("{denial}"),
		metric.WithDescription("Denials of the most persistent one of them."))
	t.replicas, _ = meter.Int64ObservableGauge(MetricReplicas, metric.WithUnit("{replica}"),
		metric.WithDescription("Replicas that were alive when this one last heard."))
	t.budget, _ = meter.Float64ObservableGauge(MetricBudget, metric.WithUnit("s"),
		metric.WithDescription("How long Redis may take for a check."))
	t.reduced, _ = meter.Int64ObservableGauge(MetricReduced, metric.WithUnit("{capability}"),
		metric.WithDescription("1 while Redis refuses the capability."))
	t.breaker, _ = meter.Int64Gauge(MetricBreaker, metric.WithUnit("{state}"),
		metric.WithDescription("The breaker in front of Redis: 0 closed, 1 half open, 2 open."))
	return t
}

// observe reports, whenever metrics are collected, what the limiter knows by then.
func (t *instruments) observe(l *Limiter) {
	// The registration lives as long as the limiter does, which is as long as the process.
	_, _ = t.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		callers, most := l.denials.count(l.now())
		o.ObserveInt64(t.limited, callers)
		o.ObserveInt64(t.denials, most)
		o.ObserveInt64(t.replicas, l.presence.replicas.Load())
		o.ObserveFloat64(t.budget, l.options.Budget.Seconds())
		for _, c := range []capability{publish, subscribe} {
			refused := int64(0)
			if l.reduced.of(c).Load() {
				refused = 1
			}
			o.ObserveInt64(t.reduced, refused, metric.WithAttributes(attribute.String("capability", string(c))))
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		for policy, limit := range t.limits {
			o.ObserveInt64(t.limit, limit, metric.WithAttributes(attribute.String("policy", policy)))
		}
		for by, units := range t.most {
			o.ObserveInt64(t.spent, units, metric.WithAttributes(
				attribute.String("policy", by.policy), attribute.String("strategy", string(by.strategy))))
			// It is 0 next time and not left out: a backend shows the last value of a missing series for a while.
			t.most[by] = 0
		}
		return nil
	}, t.limited, t.denials, t.replicas, t.budget, t.reduced, t.limit, t.spent)
}

func (t *instruments) startCheck(
	ctx context.Context, options ...trace.SpanStartOption,
) (context.Context, trace.Span) {
	return t.tracer.Start(ctx, SpanCheck, options...)
}

func (t *instruments) startHeartbeat(ctx context.Context) (context.Context, trace.Span) {
	return t.tracer.Start(ctx, SpanHeartbeat, trace.WithNewRoot())
}

// decided records the outcome of a check.
func (t *instruments) decided(
	ctx context.Context, d Decision, policies []*CompiledPolicy, err error, took time.Duration,
) {
	span := trace.SpanFromContext(ctx)
	if err != nil {
		recordError(span, err)
		return
	}
	deciding := d.decidingIndex()
	t.checkTime.Record(ctx, took.Seconds(), policies[deciding].checkTime.of(d)...)
	for i, v := range d.Verdicts {
		if d.Allowed || v.Wait > 0 { // one that would have admitted what another refused has decided nothing
			t.decisions.Add(ctx, 1, policies[i].decisions.of(d)...)
		}
	}
	t.saw(d)
	if span.IsRecording() {
		describe(span, d, d.Verdicts[deciding])
	}
}

func describe(span trace.Span, d Decision, deciding Verdict) {
	span.SetAttributes(
		attribute.String("ratelimit.policy", deciding.Policy.Name),
		attribute.String("ratelimit.strategy", string(deciding.Policy.Strategy)),
		attribute.String("ratelimit.result", results[d.Allowed]),
		attribute.Int64("ratelimit.remaining", deciding.Remaining),
		attribute.Bool("ratelimit.degraded", d.Degraded),
		attribute.String("ratelimit.source", string(d.Source)),
	)
	if !d.Allowed {
		span.SetAttributes(attribute.Float64("ratelimit.wait", deciding.Wait.Seconds()))
	}
}

var (
	results = map[bool]string{true: resultAllowed, false: resultDenied}
	sources = []Source{FromRedis, FromMemory, FromFallback}
)

// outcomes has the attributes of an instrument for each result and source, made once, because every request of a
// service is counted.
type outcomes[Option any] [2][3][]Option

func (o *outcomes[Option]) of(d Decision) []Option {
	allowed, source := 0, 0
	if d.Allowed {
		allowed = 1
	}
	switch d.Source {
	case FromMemory:
		source = 1
	case FromFallback:
		source = 2
	}
	return o[allowed][source]
}

// describe makes the attributes of what the policy decides.
func (c *CompiledPolicy) describe() {
	for i, source := range sources {
		for allowed, result := range []string{resultDenied, resultAllowed} {
			attributes := []attribute.KeyValue{
				attribute.String("strategy", string(c.settings.Strategy)),
				attribute.String("result", result),
				attribute.Bool("degraded", source == FromFallback),
				attribute.String("source", string(source)),
			}
			c.checkTime[allowed][i] = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attributes...))}
			attributes = append(attributes, attribute.String("policy", c.settings.Name))
			c.decisions[allowed][i] = []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(attributes...))}
		}
	}
}

// saw notes what the caller has spent, without noting who that is.
func (t *instruments) saw(d Decision) {
	if d.Source != FromRedis {
		return // it was seen before, or is not what all replicas share
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range d.Verdicts {
		by := counted{v.Policy.Name, v.Policy.Strategy}
		t.limits[by.policy] = v.Policy.Limit
		t.most[by] = max(t.most[by], v.Policy.Limit-v.Remaining)
	}
}

func (t *instruments) breakerChanged(to gobreaker.State) {
	t.breaker.Record(context.Background(), int64(to))
}

func recordError(span trace.Span, err error) {
	span.RecordError(err)
	span.SetStatus(codes.Error, err.Error())
}
