package buffer_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9/logging"
	"go.opentelemetry.io/otel/trace"

	"nervous/app/buffer"
	"nervous/app/servicetest"
	"nervous/app/servicetest/replica"
)

func TestMain(m *testing.M) {
	logging.Disable() // go-redis reports every fault that we inject, and so does Run
	slog.SetDefault(slog.New(slog.DiscardHandler))
	replica.Serve(newWorker)
	servicetest.Parallel(12)
	m.Run()
}

// settings are a worker's: where Redis and Postgres are, what the family's options are, and where it stops.
type settings struct {
	Network  network
	Database string

	Family                        string
	FlushSize                     int64
	FlushAge, FlushTimeout, Lease time.Duration
	Producers                     int

	// Run has the worker recover what others have left, and flush the Continuous buffers.
	Run        bool
	Continuous []string
	// StopAt is a point of the protocol at which the worker stays until the test lets it go on.
	StopAt string
}

// newWorker is a small service around one family of buffers.
func newWorker(s settings, seen *replica.Telemetry) any {
	pool, err := pgxpool.New(context.Background(), s.Database)
	if err != nil {
		panic(err)
	}
	w := &worker{
		settings: s, tracer: seen.TracerProvider.Tracer("test"),
		at: make(chan struct{}, 1000), released: make(chan struct{}),
	}
	w.buffers = buffer.New(s.Network.client(), pool, buffer.Options[int64]{
		Name: s.Family, Apply: mark,
		FlushSize: s.FlushSize, FlushAge: s.FlushAge, FlushTimeout: s.FlushTimeout, Lease: s.Lease, Producers: s.Producers,
		TracerProvider: seen.TracerProvider, MeterProvider: seen.MeterProvider,
	}.OnReached(w.reached))
	if s.Run {
		var continuous []*buffer.Buffer[int64]
		for _, name := range s.Continuous {
			continuous = append(continuous, w.buffers.Open(name))
		}
		go func() { _ = w.buffers.Run(context.Background(), continuous...) }()
	}
	return w
}

// worker is what the test can ask of one; net/rpc prescribes the form of its methods.
type worker struct {
	settings settings
	buffers  *buffer.Buffers[int64]
	tracer   trace.Tracer

	at       chan struct{}
	released chan struct{}
	release  sync.Once
}

func (w *worker) reached(point string) {
	if point == w.settings.StopAt {
		w.at <- struct{}{}
		<-w.released
	}
}

// Reached answers once the worker is where it stops.
func (w *worker) Reached(struct{}, *struct{}) error {
	<-w.at
	return nil
}

// GoOn lets it go on, and not stop there again.
func (w *worker) GoOn(struct{}, *struct{}) error {
	w.release.Do(func() { close(w.released) })
	return nil
}

// Payments are those from the first to the last, for one buffer.
type Payments struct {
	Buffer      string
	First, Last int64
}

func (p Payments) ids() (ids []int64) {
	for id := p.First; id <= p.Last; id++ {
		ids = append(ids, id)
	}
	return ids
}

// Add adds payments to a buffer, and answers with the span in which that was done.
func (w *worker) Add(p Payments, producer *string) error {
	ctx, span := w.tracer.Start(context.Background(), "add")
	defer span.End()
	*producer = span.SpanContext().SpanID().String()
	return w.buffers.Open(p.Buffer).Add(ctx, p.ids()...)
}

// Flush flushes a buffer, and answers with the span that asked for it too.
func (w *worker) Flush(name string, done *Flush) (err error) {
	ctx, span := w.tracer.Start(context.Background(), "ask for a flush")
	defer span.End()
	done.Cause = span.SpanContext().SpanID().String()
	done.Flushed, err = w.buffers.Open(name).Flush(ctx)
	return err
}

// Flush is what one has done.
type Flush struct {
	buffer.Flushed
	Cause string
}

// Stats says what a buffer holds.
func (w *worker) Stats(name string, holds *buffer.Stats) (err error) {
	*holds, err = w.buffers.Open(name).Stats(context.Background())
	return err
}
