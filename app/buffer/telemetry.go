package buffer

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// The instruments. All carry the attribute `buffer`, the Label of the Options. The gauges are what Run last saw in
// Redis, which every replica does: take their maximum, not their sum.
const (
	// MetricDepth is how many ids are not yet acknowledged {item}.
	MetricDepth = "buffer.depth"
	// MetricGenerations is how many generations are not yet acknowledged {generation}.
	MetricGenerations = "buffer.generations"
	// MetricOldestAge is how long the oldest of the ids has been waiting, in seconds.
	MetricOldestAge = "buffer.oldest.age"
	// MetricAdds counts ids {item}, by outcome: added; refused by a Redis that is away or full; full, because the buffer
	// holds as many as it may.
	MetricAdds = "buffer.adds"
	// MetricFlushItems is how many ids a flush took {item}, by outcome.
	MetricFlushItems = "buffer.flush.items"
	// MetricFlushDuration is how long a flush took in seconds, from reading to acknowledging, by outcome.
	MetricFlushDuration = "buffer.flush.duration"
	// MetricFlushes counts flushes {flush}, by outcome (committed; replayed, because its record was there; failed, and
	// to be tried again) and origin (cut; recovered from a flusher that is gone).
	MetricFlushes = "buffer.flushes"
	// MetricDropped counts ids {item} of buffers that had lost their owner: see Ownership.
	MetricDropped = "buffer.dropped"
)

const (
	outcomeAdded     = "added"
	outcomeRefused   = "refused"
	outcomeFull      = "full"
	outcomeCommitted = "committed"
	outcomeReplayed  = "replayed"
	outcomeFailed    = "failed"

	originCut       = "cut"
	originRecovered = "recovered"
)

// SpanFlush is a flush: the root of a trace of its own, which links to the traces that its ids came from, and to the
// span that asked for it, if any.
const SpanFlush = "buffer.flush"

// The attribute of a link that says where it leads.
const (
	linkKind     = "link.kind"
	linkProducer = "producer"
	linkCause    = "cause"
)

const scope = "nervous/app/buffer"

// instruments is this package's telemetry as a few verbs, so that the protocol reads without it.
type instruments struct {
	tracer trace.Tracer
	meter  metric.Meter

	depth       metric.Int64ObservableGauge
	generations metric.Int64ObservableGauge
	oldestAge   metric.Float64ObservableGauge
	adds        metric.Int64Counter
	flushItems  metric.Int64Histogram
	flushTime   metric.Float64Histogram
	flushes     metric.Int64Counter
	dropped     metric.Int64Counter
}

func newInstruments(tracers trace.TracerProvider, meters metric.MeterProvider) *instruments {
	meter := meters.Meter(scope)
	t := &instruments{tracer: tracers.Tracer(scope), meter: meter}
	// The constructors fail only for names that are not allowed; they return a working no-op even then.
	t.depth, _ = meter.Int64ObservableGauge(MetricDepth, metric.WithUnit("{item}"),
		metric.WithDescription("Ids that are not yet acknowledged."))
	t.generations, _ = meter.Int64ObservableGauge(MetricGenerations, metric.WithUnit("{generation}"),
		metric.WithDescription("Generations that are not yet acknowledged."))
	t.oldestAge, _ = meter.Float64ObservableGauge(MetricOldestAge, metric.WithUnit("s"),
		metric.WithDescription("How long the oldest id has been waiting."))
	t.adds, _ = meter.Int64Counter(MetricAdds, metric.WithUnit("{item}"),
		metric.WithDescription("Ids that were to be added."))
	t.flushItems, _ = meter.Int64Histogram(MetricFlushItems, metric.WithUnit("{item}"),
		metric.WithDescription("Ids that a flush took."),
		metric.WithExplicitBucketBoundaries(1, 10, 100, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000))
	t.flushTime, _ = meter.Float64Histogram(MetricFlushDuration, metric.WithUnit("s"),
		metric.WithDescription("Time of a flush, from reading to acknowledging."))
	t.flushes, _ = meter.Int64Counter(MetricFlushes, metric.WithUnit("{flush}"),
		metric.WithDescription("Flushes."))
	t.dropped, _ = meter.Int64Counter(MetricDropped, metric.WithUnit("{item}"),
		metric.WithDescription("Ids of buffers without an owner."))
	return t
}

// observe reports, whenever metrics are collected, what is known of each label.
func (t *instruments) observe(known func() map[string]Stats) {
	// The registration lives as long as the family does, which is as long as the process.
	_, _ = t.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for label, s := range known() {
			by := metric.WithAttributes(attribute.String("buffer", label))
			o.ObserveInt64(t.depth, s.Depth, by)
			o.ObserveInt64(t.generations, int64(s.Generations), by)
			o.ObserveFloat64(t.oldestAge, s.OldestAge.Seconds(), by)
		}
		return nil
	}, t.depth, t.generations, t.oldestAge)
}

func (t *instruments) added(ctx context.Context, label, outcome string, ids int) {
	t.adds.Add(ctx, int64(ids), metric.WithAttributes(
		attribute.String("buffer", label), attribute.String("outcome", outcome)))
}

func (t *instruments) droppedIDs(ctx context.Context, label string, ids int64) {
	t.dropped.Add(ctx, ids, metric.WithAttributes(attribute.String("buffer", label)))
}

// startFlush begins the span of a flush. It has no parent: the ids of one flush come from many traces.
func (t *instruments) startFlush(ctx context.Context, label string, g claimed) (context.Context, trace.Span) {
	links := make([]trace.Link, 0, len(g.producers)+1)
	for _, producer := range g.producers {
		links = append(links, link(linkProducer, producer))
	}
	if cause := trace.SpanContextFromContext(ctx); cause.IsValid() {
		links = append(links, link(linkCause, cause))
	}
	return t.tracer.Start(ctx, SpanFlush, trace.WithNewRoot(), trace.WithLinks(links...), trace.WithAttributes(
		attribute.String("buffer.name", label),
		attribute.String("buffer.flush.origin", g.origin),
		attribute.Int64("buffer.flush.items", g.size),
	))
}

// flushed closes the books on a flush.
func (t *instruments) flushed(ctx context.Context, label string, g claimed, f Flushed, took time.Duration, err error) {
	outcome := outcomeCommitted
	switch {
	case err != nil:
		outcome = outcomeFailed
	case f.Replayed > 0:
		outcome = outcomeReplayed
	}
	by := metric.WithAttributes(attribute.String("buffer", label), attribute.String("outcome", outcome))
	t.flushItems.Record(ctx, g.size, by)
	t.flushTime.Record(ctx, took.Seconds(), by)
	t.flushes.Add(ctx, 1, by, metric.WithAttributes(attribute.String("origin", g.origin)))

	span := trace.SpanFromContext(ctx)
	span.SetAttributes(
		attribute.String("buffer.flush.outcome", outcome), attribute.Int64("buffer.flush.applied", f.Applied))
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
}

func link(kind string, to trace.SpanContext) trace.Link {
	return trace.Link{SpanContext: to, Attributes: []attribute.KeyValue{attribute.String(linkKind, kind)}}
}
