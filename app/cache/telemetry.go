package cache

import (
	"context"
	"maps"
	"time"

	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// The values of the `strategy` attribute: how a cache protects its loader.
const (
	StrategyLease = "lease"
	StrategyTTL   = "ttl"
)

// The instruments. All carry the attribute `cache`, the Name of the Options.
const (
	// MetricRequests counts calls of Get {request}, by strategy and result (the Result constants).
	MetricRequests = "cache.requests"
	// MetricFills counts runs of the loader {fill}, by strategy, outcome (committed; lost, because something newer was
	// there or Redis could not be reached; failed) and cause (miss, stale, early, refresh).
	MetricFills = "cache.fills"
	// MetricFillDuration is the time of such a run in seconds, by strategy and outcome.
	MetricFillDuration = "cache.fill.duration"
	// MetricLeaseRequests counts attempts to get the lease {request}, by result: acquired, busy, cooldown, unavailable.
	MetricLeaseRequests = "cache.lease.requests"
	// MetricLeaseWait is how long a request waited for somebody else's fill, in seconds, by result, which says what ended
	// the wait: push, poll (both across replicas), flight (in this process), timeout.
	MetricLeaseWait = "cache.lease.wait.duration"
	// MetricWaits counts such waits {request}, by holder: the replica that did the work, empty where nobody knew. Most
	// are over before the next look at MetricWaiters.
	MetricWaits = "cache.waits"
	// MetricWaiters is how many requests are waiting now {request}, by holder.
	MetricWaiters = "cache.waiters"
	// MetricValueAge is the age of what was served from memory, in seconds, by result: hit or stale.
	MetricValueAge = "cache.value.age"
	// MetricRefused counts values that could not be used {value}, by reason: unreadable, too_large.
	MetricRefused = "cache.values.refused"
	// MetricTTL is how long a value is fresh, in seconds, by strategy: the measure of how many fills are enough.
	MetricTTL = "cache.ttl"
	// MetricDeletes counts deletions {deletion}, by strategy: each is a reason for one more fill.
	MetricDeletes = "cache.deletes"
	// MetricReduced is 1 while Redis refuses a capability to this client {capability}, by capability: publish, subscribe.
	MetricReduced = "cache.reduced"
	// MetricBreaker is the state of the breaker in front of Redis: 0 closed, 1 half open, 2 open {state}.
	MetricBreaker = "cache.breaker.state"
)

const (
	refusedUnreadable = "unreadable"
	refusedTooLarge   = "too_large"
)

// The spans: a call of Get, and each key of a GetMany; a GetMany; a run of the loader, on whichever replica; the
// background work that a request has caused, a root of its own that links to that request.
const (
	SpanGet     = "cache.get"
	SpanGetMany = "cache.get_many"
	SpanFill    = "cache.fill"
	SpanRefresh = "cache.refresh"
)

// The attribute of a link that says where it leads: from a Get to the fill that produced its value, unless it did that
// itself; from a refresh to the Get that it was begun for; and from either to whoever does the work in its place.
const (
	linkKind     = "link.kind"
	linkProducer = "producer"
	linkHolder   = "holder"
	linkCause    = "cause"
)

const scope = "nervous/app/cache"

// instruments is this package's telemetry as a few verbs, so that the algorithm reads without it.
type instruments struct {
	tracer   trace.Tracer
	spanName trace.SpanStartOption

	requests  metric.Int64Counter
	fills     metric.Int64Counter
	fillTime  metric.Float64Histogram
	leases    metric.Int64Counter
	leaseWait metric.Float64Histogram
	waits     metric.Int64Counter
	waiters   metric.Int64ObservableUpDownCounter
	valueAge  metric.Float64Histogram
	unusable  metric.Int64Counter
	deletes   metric.Int64Counter
	breaker   metric.Int64Gauge
	meter     metric.Meter

	cache, strategy attribute.KeyValue
	// Attribute sets are made once, because a hit is counted on every request.
	byCache, byStrategy metric.MeasurementOption
	byResult            map[Result]resultOptions
}

type resultOptions struct{ request, age metric.MeasurementOption }

func newInstruments(name, strategy string, tracers trace.TracerProvider, meters metric.MeterProvider) *instruments {
	meter := meters.Meter(scope)
	t := &instruments{
		tracer:   tracers.Tracer(scope),
		cache:    attribute.String("cache", name),
		strategy: attribute.String("strategy", strategy),
		meter:    meter,
		byResult: map[Result]resultOptions{},
	}
	t.spanName = trace.WithAttributes(attribute.String("cache.name", name), attribute.String("cache.strategy", strategy))
	// The constructors fail only for names that are not allowed; they return a working no-op even then.
	t.requests, _ = meter.Int64Counter(MetricRequests, metric.WithUnit("{request}"),
		metric.WithDescription("Calls of Get, by result."))
	t.fills, _ = meter.Int64Counter(MetricFills, metric.WithUnit("{fill}"),
		metric.WithDescription("Runs of the loader."))
	t.fillTime, _ = meter.Float64Histogram(MetricFillDuration, metric.WithUnit("s"),
		metric.WithDescription("Time of a run of the loader."))
	t.leases, _ = meter.Int64Counter(MetricLeaseRequests, metric.WithUnit("{request}"),
		metric.WithDescription("Attempts to get the lease, by result."))
	t.leaseWait, _ = meter.Float64Histogram(MetricLeaseWait, metric.WithUnit("s"),
		metric.WithDescription("How long a request waited for somebody else's fill."))
	t.waits, _ = meter.Int64Counter(MetricWaits, metric.WithUnit("{request}"),
		metric.WithDescription("Requests that have waited for somebody else's fill."))
	t.waiters, _ = meter.Int64ObservableUpDownCounter(MetricWaiters, metric.WithUnit("{request}"),
		metric.WithDescription("Requests that are waiting for somebody else's fill."))
	t.valueAge, _ = meter.Float64Histogram(MetricValueAge, metric.WithUnit("s"),
		metric.WithDescription("Age of what was served from memory."))
	t.unusable, _ = meter.Int64Counter(MetricRefused, metric.WithUnit("{value}"),
		metric.WithDescription("Values that could not be used."))
	t.deletes, _ = meter.Int64Counter(MetricDeletes, metric.WithUnit("{deletion}"),
		metric.WithDescription("Deletions of values."))
	t.breaker, _ = meter.Int64Gauge(MetricBreaker, metric.WithUnit("{state}"),
		metric.WithDescription("The breaker in front of Redis: 0 closed, 1 half open, 2 open."))

	t.byCache = metric.WithAttributeSet(attribute.NewSet(t.cache))
	t.byStrategy = metric.WithAttributeSet(attribute.NewSet(t.cache, t.strategy))
	for _, r := range []Result{ResultHit, ResultStale, ResultMiss, ResultWait, ResultBypass, ResultError} {
		result := attribute.String("result", string(r))
		t.byResult[r] = resultOptions{
			request: metric.WithAttributeSet(attribute.NewSet(t.cache, t.strategy, result)),
			age:     metric.WithAttributeSet(attribute.NewSet(t.cache, result)),
		}
	}
	return t
}

func (t *instruments) startGet(ctx context.Context) (context.Context, trace.Span) {
	return t.tracer.Start(ctx, SpanGet, t.spanName)
}

func (t *instruments) startGetMany(ctx context.Context, keys int) (context.Context, trace.Span) {
	return t.tracer.Start(ctx, SpanGetMany, t.spanName, trace.WithAttributes(attribute.Int("cache.keys", keys)))
}

func (t *instruments) startFill(ctx context.Context) (context.Context, trace.Span) {
	return t.tracer.Start(ctx, SpanFill, t.spanName)
}

func (t *instruments) startRefresh(ctx context.Context, cause trace.SpanContext) (context.Context, trace.Span) {
	ctx, span := t.tracer.Start(ctx, SpanRefresh, t.spanName, trace.WithNewRoot())
	addLink(span, linkCause, cause)
	return ctx, span
}

// answered closes the books on one call of Get.
func (t *instruments) answered(ctx context.Context, span trace.Span, info Info, err error) {
	options := t.byResult[info.Result]
	t.requests.Add(ctx, 1, options.request)
	fromMemory := info.Result == ResultHit || info.Result == ResultStale
	if fromMemory {
		t.valueAge.Record(ctx, info.Age.Seconds(), options.age)
	}
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(attribute.String("cache.result", string(info.Result)))
	if fromMemory {
		span.SetAttributes(attribute.Float64("cache.value.age", info.Age.Seconds()))
	}
	if info.Local {
		span.SetAttributes(attribute.Bool("cache.local", true))
	}
	if info.Result != ResultMiss {
		addLink(span, linkProducer, info.Producer)
	}
	addLink(span, linkHolder, info.Holder)
	recordError(span, err)
}

func (t *instruments) filled(ctx context.Context, why cause, outcome string, took time.Duration) {
	by := []attribute.KeyValue{t.cache, t.strategy, attribute.String("outcome", outcome)}
	t.fillTime.Record(ctx, took.Seconds(), metric.WithAttributes(by...))
	t.fills.Add(ctx, 1, metric.WithAttributes(append(by, attribute.String("cause", string(why)))...))
	trace.SpanFromContext(ctx).SetAttributes(
		attribute.String("cache.fill.outcome", outcome), attribute.String("cache.fill.cause", string(why)))
}

func (t *instruments) leaseAsked(ctx context.Context, result string) {
	t.leases.Add(ctx, 1, metric.WithAttributes(t.cache, attribute.String("result", result)))
}

// observeWaiters reports, whenever metrics are collected, who waits for which replica.
func (t *instruments) observeWaiters(waiters func() map[string]int64) {
	// A holder whom nobody waits for any more is reported as such: of what is merely left out, a backend goes on showing
	// the last value for a while.
	known := map[string]int64{}
	// The registration lives as long as the cache does, which is as long as the process.
	_, _ = t.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for holder := range known {
			known[holder] = 0
		}
		maps.Copy(known, waiters())
		for holder, n := range known {
			o.ObserveInt64(t.waiters, n, metric.WithAttributes(t.cache, attribute.String("holder", holder)))
		}
		return nil
	}, t.waiters)
}

// observeTTL reports a setting again and again: one that is recorded once would be gone when somebody looks.
func (t *instruments) observeTTL(ttl time.Duration) {
	gauge, _ := t.meter.Float64ObservableGauge(MetricTTL, metric.WithUnit("s"),
		metric.WithDescription("How long a value is fresh."))
	// Registered apart from the instrument: a second cache's is the same instrument, and would lose its callback.
	_, _ = t.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveFloat64(gauge, ttl.Seconds(), t.byStrategy)
		return nil
	}, gauge)
}

func (t *instruments) deleted(ctx context.Context) { t.deletes.Add(ctx, 1, t.byStrategy) }

func (t *instruments) breakerChanged(to gobreaker.State) {
	t.breaker.Record(context.Background(), int64(to), t.byCache)
}

func (t *instruments) refused(ctx context.Context, reason string) {
	t.unusable.Add(ctx, 1, metric.WithAttributes(t.cache, attribute.String("reason", reason)))
	event(ctx, "value."+reason)
}

func (t *instruments) waited(ctx context.Context, holder, endedBy string, took time.Duration) {
	t.waits.Add(ctx, 1, metric.WithAttributes(t.cache, attribute.String("holder", holder)))
	t.leaseWait.Record(ctx, took.Seconds(), metric.WithAttributes(t.cache, attribute.String("result", endedBy)))
}

// event marks a turn of the algorithm on the current span.
func event(ctx context.Context, name string) { trace.SpanFromContext(ctx).AddEvent(name) }

func addLink(span trace.Span, kind string, to trace.SpanContext) {
	if to.IsValid() {
		span.AddLink(trace.Link{SpanContext: to, Attributes: []attribute.KeyValue{attribute.String(linkKind, kind)}})
	}
}

func recordError(span trace.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
}
