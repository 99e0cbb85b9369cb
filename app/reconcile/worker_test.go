package reconcile_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9/logging"
	"go.opentelemetry.io/otel"

	"nervous/app/reconcile"
	"nervous/app/servicetest"
	"nervous/app/servicetest/replica"
)

func TestMain(m *testing.M) {
	logging.Disable() // go-redis reports every fault that we inject, and so does Run
	slog.SetDefault(slog.New(slog.DiscardHandler))
	replica.Serve(newWorker)
	servicetest.Parallel(6)
	m.Run()
}

// settings are a worker's: where its stores are, and its Reconciler's options.
type settings struct {
	Network network
	Options reconcile.Options
}

// newWorker is a small service around one Reconciler.
func newWorker(s settings, seen *replica.Telemetry) any {
	otel.SetTracerProvider(seen.TracerProvider)
	otel.SetMeterProvider(seen.MeterProvider)
	pool, rdb, err := s.Network.connect(context.Background())
	if err != nil {
		panic(err)
	}
	w := &worker{reconcile.New(pool, rdb, s.Options)}
	go func() { _ = w.reconciler.Run(context.Background()) }()
	return w
}

// worker is what the test can ask of one; net/rpc prescribes the form of its methods.
type worker struct{ reconciler *reconcile.Reconciler }

// Order is what to start.
type Order struct {
	Strategy reconcile.Strategy
	Limit    int
}

// Started is a run that was started, in which span; or the one that stood in the way.
type Started struct {
	Job     reconcile.Job
	Span    string
	Running uuid.UUID
}

// Start starts a run.
func (w *worker) Start(o Order, started *Started) (err error) {
	ctx, span := otel.Tracer("test").Start(context.Background(), "ask for a run")
	defer span.End()
	started.Span = span.SpanContext().SpanID().String()
	started.Job, err = w.reconciler.Start(ctx, o.Strategy, o.Limit)
	if running, ok := errors.AsType[reconcile.RunningError](err); ok {
		started.Running = running.ID
		return nil
	}
	return err
}

// Event is what became of a live event, and in which span it came.
type Event struct {
	Path reconcile.Path
	Span string
}

// Settled takes a live event.
func (w *worker) Settled(payment int64, event *Event) (err error) {
	ctx, span := otel.Tracer("test").Start(context.Background(), "settled")
	defer span.End()
	event.Span = span.SpanContext().SpanID().String()
	event.Path, err = w.reconciler.Settled(ctx, payment)
	return err
}
