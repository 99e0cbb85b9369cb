package reconcile

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"nervous/app/roundtrips"
)

// The instruments.
const (
	// MetricItems counts payments that a run has looked at {payment}, by strategy and outcome (the Finding constants).
	MetricItems = "reconcile.items"
	// MetricProgress is how far the run is, from 0 to 1, by strategy: while this process works on it, and half a minute
	// longer, because a fast run would be over before anybody looked.
	MetricProgress = "reconcile.job.progress"
	// MetricDuration is how long a run took in seconds, over all its attempts, by strategy and outcome: done, failed,
	// cancelled.
	MetricDuration = "reconcile.job.duration"
	// MetricLastEnded is when this process last ended a run, in seconds of Unix time, by strategy. Of all replicas' and
	// strategies' the newest is the last run; what it cost and did is in the next two.
	MetricLastEnded = "reconcile.job.last.ended"
	// MetricLastRoundTrips is what that run's work cost {round_trip}, over all its attempts, by strategy and store.
	MetricLastRoundTrips = "reconcile.job.last.round_trips"
	// MetricLastPayments is what it found {payment}, by strategy and outcome (the Finding constants): one by one it
	// would have read each and marked those reconciled.
	MetricLastPayments = "reconcile.job.last.payments"
	// MetricTakeovers counts runs that another worker had begun {job}.
	MetricTakeovers = "reconcile.job.takeovers"
	// MetricEvents counts live events {event}, by outcome: buffered, direct, refused.
	MetricEvents = "reconcile.events"
	// MetricReopened counts payments that were reconciled, and do not agree any more because their settlement was changed
	// {payment}: a run makes them pending again.
	MetricReopened = "reconcile.reopened"
	// MetricDisagreeing is how many reconciled payments disagree with a settlement that was changed, until a run reopens
	// them {payment}; every replica reports the same.
	MetricDisagreeing = "reconcile.disagreeing"
	// MetricPayments is what Postgres holds {payment}, by status; every replica reports the same.
	MetricPayments = "reconcile.payments"
)

// The spans, each the root of a trace: one attempt at a run, what another worker does for it, and one page.
const (
	SpanJob  = "reconcile.job"
	SpanHelp = "reconcile.help"
	SpanPage = "reconcile.page"
)

// The attribute of a link that says where it leads: to the request that asked for the run, to the attempt that began
// it, from a page to its run.
const (
	linkKind  = "link.kind"
	linkCause = "cause"
	linkFirst = "first_attempt"
	linkJob   = "job"
)

const scope = "nervous/app/reconcile"

// instruments is this package's telemetry as a few verbs.
type instruments struct {
	tracer     trace.Tracer
	itemCount  metric.Int64Counter
	progress   metric.Float64ObservableGauge
	duration   metric.Float64Histogram
	last       last
	takeovers  metric.Int64Counter
	eventCount metric.Int64Counter
	payments   metric.Int64Gauge

	reopenedCount metric.Int64Counter
	disagreeing   metric.Int64Gauge

	mu   sync.Mutex
	runs map[Strategy]seen
}

// seen is a run's progress, and when it last changed.
type seen struct {
	progress float64
	at       time.Time
}

// last is the last run that this process has ended, by strategy.
type last struct {
	ended                metric.Float64Gauge
	roundTrips, payments metric.Int64Gauge
}

// remembered is how long progress that does not change any more is reported.
const remembered = 30 * time.Second

func newInstruments() *instruments {
	meter := otel.Meter(scope)
	t := &instruments{tracer: otel.Tracer(scope), runs: map[Strategy]seen{}}
	// The constructors fail only for names that are not allowed; they return a working no-op even then.
	t.itemCount, _ = meter.Int64Counter(MetricItems, metric.WithUnit("{payment}"),
		metric.WithDescription("Payments that a run has looked at."))
	t.progress, _ = meter.Float64ObservableGauge(MetricProgress, metric.WithUnit("1"),
		metric.WithDescription("How far the run is."), metric.WithFloat64Callback(t.observe))
	t.duration, _ = meter.Float64Histogram(MetricDuration, metric.WithUnit("s"),
		metric.WithDescription("Time of a run."),
		metric.WithExplicitBucketBoundaries(.1, .25, .5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500))
	t.last.ended, _ = meter.Float64Gauge(MetricLastEnded, metric.WithUnit("s"),
		metric.WithDescription("Unix time at which a run last ended."))
	t.last.roundTrips, _ = meter.Int64Gauge(MetricLastRoundTrips, metric.WithUnit("{round_trip}"),
		metric.WithDescription("Round-trips of the last run's work."))
	t.last.payments, _ = meter.Int64Gauge(MetricLastPayments, metric.WithUnit("{payment}"),
		metric.WithDescription("Payments that the last run looked at."))
	t.takeovers, _ = meter.Int64Counter(MetricTakeovers, metric.WithUnit("{job}"),
		metric.WithDescription("Runs that were taken over from another worker."))
	t.eventCount, _ = meter.Int64Counter(MetricEvents, metric.WithUnit("{event}"),
		metric.WithDescription("Live events."))
	t.payments, _ = meter.Int64Gauge(MetricPayments, metric.WithUnit("{payment}"),
		metric.WithDescription("Payments in Postgres."))
	t.reopenedCount, _ = meter.Int64Counter(MetricReopened, metric.WithUnit("{payment}"),
		metric.WithDescription("Reconciled payments that a run has made pending again."))
	t.disagreeing, _ = meter.Int64Gauge(MetricDisagreeing, metric.WithUnit("{payment}"),
		metric.WithDescription("Reconciled payments that disagree with their settlement."))
	return t
}

func (t *instruments) observe(_ context.Context, o metric.Float64Observer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for strategy, s := range t.runs {
		if time.Since(s.at) > remembered {
			delete(t.runs, strategy)
			continue
		}
		o.Observe(s.progress, metric.WithAttributes(attribute.String("strategy", string(strategy))))
	}
	return nil
}

func (t *instruments) progressed(s Strategy, examined, total int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.runs[s] = seen{progressOf(examined, total), time.Now()}
}

func progressOf(examined, total int64) float64 {
	if total == 0 {
		return 1
	}
	return float64(examined) / float64(total)
}

func (t *instruments) items(ctx context.Context, s Strategy, counts Counts) {
	for finding, n := range counts.byFinding() {
		if n > 0 {
			t.itemCount.Add(ctx, n, metric.WithAttributes(
				attribute.String("strategy", string(s)), attribute.String("outcome", string(finding))))
		}
	}
}

func (t *instruments) events(ctx context.Context, outcome string, n int) {
	t.eventCount.Add(ctx, int64(n), metric.WithAttributes(attribute.String("outcome", outcome)))
}

func (t *instruments) counted(ctx context.Context, pending, reconciled int64) {
	t.payments.Record(ctx, pending, metric.WithAttributes(attribute.String("status", "pending")))
	t.payments.Record(ctx, reconciled, metric.WithAttributes(attribute.String("status", "reconciled")))
}

func (t *instruments) startJob(ctx context.Context) (context.Context, trace.Span) {
	return t.tracer.Start(ctx, SpanJob, trace.WithNewRoot())
}

func (t *instruments) startHelp(ctx context.Context) (context.Context, trace.Span) {
	return t.tracer.Start(ctx, SpanHelp, trace.WithNewRoot())
}

// helped says on the span which run it is a part of, and links it to the run's.
func (t *instruments) helped(j Job, span trace.Span) {
	span.SetAttributes(attribute.String("reconcile.strategy", string(j.Strategy)))
	addLink(span, linkJob, j.trace)
}

func (t *instruments) reopened(ctx context.Context, n int64) {
	if n > 0 {
		t.reopenedCount.Add(ctx, n)
	}
}

func (t *instruments) disagree(ctx context.Context, n int64) { t.disagreeing.Record(ctx, n) }

// took says on the span which run was taken, and links it to what came before.
func (t *instruments) took(ctx context.Context, j Job, span trace.Span) {
	span.SetAttributes(
		attribute.String("reconcile.strategy", string(j.Strategy)),
		attribute.Int64("reconcile.payments", j.Total),
		attribute.Int("reconcile.attempt", j.Attempts),
	)
	addLink(span, linkCause, j.cause)
	if j.Attempts > 1 {
		t.takeovers.Add(ctx, 1)
		addLink(span, linkFirst, j.trace)
	}
}

// ended closes the books on an attempt.
func (t *instruments) ended(ctx context.Context, span trace.Span, j Job, err error) {
	state := j.State
	span.SetAttributes(attribute.String("reconcile.state", string(state)))
	if err != nil && state != Cancelled {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	if state.Over() {
		t.last.record(ctx, j)
		t.duration.Record(ctx, j.Took.Seconds(), metric.WithAttributes(
			attribute.String("strategy", string(j.Strategy)), attribute.String("outcome", string(state))))
	}
}

func (l last) record(ctx context.Context, j Job) {
	strategy := attribute.String("strategy", string(j.Strategy))
	for store, n := range map[roundtrips.Store]int64{roundtrips.Postgres: j.DBTrips, roundtrips.Redis: j.RedisTrips} {
		l.roundTrips.Record(ctx, n, metric.WithAttributes(strategy, attribute.String("store", string(store))))
	}
	for finding, n := range j.Counts.byFinding() { // also none, or the run before this one would seem to have found some
		l.payments.Record(ctx, n, metric.WithAttributes(strategy, attribute.String("outcome", string(finding))))
	}
	l.ended.Record(ctx, float64(time.Now().UnixMilli())/1e3, metric.WithAttributes(strategy))
}

// repeated says that a range is gone through once more, because something is left: usually Redis has lost it.
func (t *instruments) repeated(ctx context.Context, left int64) {
	trace.SpanFromContext(ctx).AddEvent("buffer.lost",
		trace.WithAttributes(attribute.Int64("reconcile.pending", left)))
}

func (t *instruments) startPage(ctx context.Context, s Strategy) (context.Context, trace.Span) {
	job := trace.Link{
		SpanContext: trace.SpanContextFromContext(ctx),
		Attributes:  []attribute.KeyValue{attribute.String(linkKind, linkJob)},
	}
	return t.tracer.Start(ctx, SpanPage, trace.WithNewRoot(), trace.WithLinks(job),
		trace.WithAttributes(attribute.String("reconcile.strategy", string(s))))
}

func (t *instruments) endPage(span trace.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

func addLink(span trace.Span, kind string, to trace.SpanContext) {
	if to.IsValid() {
		span.AddLink(trace.Link{SpanContext: to, Attributes: []attribute.KeyValue{attribute.String(linkKind, kind)}})
	}
}

// traceparent writes a span in W3C form; empty where there is none.
func traceparent(span trace.SpanContext) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), span), carrier)
	return carrier["traceparent"]
}

// spanOf reads what traceparent wrote; what it does not say is zero.
func spanOf(traceparent string) trace.SpanContext {
	carrier := propagation.MapCarrier{"traceparent": traceparent}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier))
}
