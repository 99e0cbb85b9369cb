package buffer_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/rpc"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9/logging"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"nervous/app/buffer"
)

// A process that is to be killed or paused must be one of its own. It is this test binary, started again with settings
// in its environment: a small service around one family of buffers, which the test asks over the process's standard
// input and output.
const settingsVariable = "BUFFER_WORKER"

func TestMain(m *testing.M) {
	logging.Disable() // go-redis reports every fault that we inject, and so does Run
	slog.SetDefault(slog.New(slog.DiscardHandler))
	if s := os.Getenv(settingsVariable); s != "" {
		serve([]byte(s))
		return
	}
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == fmt.Sprint(runtime.GOMAXPROCS(0)) {
		_ = parallel.Value.Set("12") // they wait for time to pass more than for a processor
	}
	os.Exit(m.Run())
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

// serve is the worker's main. It ends with its standard input, so that it does not outlive the test.
func serve(encoded []byte) {
	w := &worker{spans: tracetest.NewSpanRecorder(), metrics: sdkmetric.NewManualReader(), at: make(chan struct{}, 1000),
		released: make(chan struct{})}
	if err := json.Unmarshal(encoded, &w.settings); err != nil {
		panic(err)
	}
	pool, err := pgxpool.New(context.Background(), w.settings.Database)
	if err != nil {
		panic(err)
	}
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(w.spans))
	w.tracer = tracers.Tracer("test")
	s := w.settings
	w.buffers = buffer.New(s.Network.client(), pool, buffer.Options[int64]{
		Name: s.Family, Apply: mark,
		FlushSize: s.FlushSize, FlushAge: s.FlushAge, FlushTimeout: s.FlushTimeout, Lease: s.Lease, Producers: s.Producers,
		TracerProvider: tracers, MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(w.metrics)),
	}.OnReached(w.reached))
	if s.Run {
		var continuous []*buffer.Buffer[int64]
		for _, name := range s.Continuous {
			continuous = append(continuous, w.buffers.Open(name))
		}
		go func() { _ = w.buffers.Run(context.Background(), continuous...) }()
	}
	server := rpc.NewServer()
	if err := server.RegisterName("Worker", w); err != nil {
		panic(err)
	}
	server.ServeConn(pipes{os.Stdin, os.Stdout})
}

// worker is what the test can ask of one; net/rpc prescribes the form of its methods.
type worker struct {
	settings settings
	buffers  *buffer.Buffers[int64]
	tracer   trace.Tracer
	spans    *tracetest.SpanRecorder
	metrics  *sdkmetric.ManualReader

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

// Add adds payments to a buffer, and answers with the trace in which that was done.
func (w *worker) Add(p Payments, producer *string) error {
	ctx, span := w.tracer.Start(context.Background(), "add")
	defer span.End()
	*producer = span.SpanContext().TraceID().String()
	return w.buffers.Open(p.Buffer).Add(ctx, p.ids()...)
}

// Flush flushes a buffer, and answers with the trace that asked for it too.
func (w *worker) Flush(name string, done *Flush) (err error) {
	ctx, span := w.tracer.Start(context.Background(), "ask for a flush")
	defer span.End()
	done.Cause = span.SpanContext().TraceID().String()
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

// Span is a span of this package that has ended.
type Span struct {
	Trace string
	Root  bool
	// Links are traces, by kind.
	Links      map[string][]string
	Attributes map[string]string
}

// Spans lists the flushes.
func (w *worker) Spans(_ struct{}, spans *[]Span) error {
	for _, ended := range w.spans.Ended() {
		if ended.Name() != buffer.SpanFlush {
			continue
		}
		s := Span{
			Trace: ended.SpanContext().TraceID().String(), Root: !ended.Parent().IsValid(),
			Links: map[string][]string{}, Attributes: map[string]string{},
		}
		for _, link := range ended.Links() {
			for _, a := range link.Attributes {
				s.Links[a.Value.AsString()] = append(s.Links[a.Value.AsString()], link.SpanContext.TraceID().String())
			}
		}
		for _, a := range ended.Attributes() {
			s.Attributes[string(a.Key)] = a.Value.String()
		}
		*spans = append(*spans, s)
	}
	return nil
}

// Question is about a metric, by some of its attributes.
type Question struct {
	Metric string
	By     []string
}

// Metric answers with the sums, the last values, or the numbers of observations of a metric.
func (w *worker) Metric(q Question, values *map[string]float64) error {
	*values = map[string]float64{}
	var collected metricdata.ResourceMetrics
	if err := w.metrics.Collect(context.Background(), &collected); err != nil {
		return err
	}
	add := func(attributes attribute.Set, n float64) {
		var by []string
		for _, name := range q.By {
			value, _ := attributes.Value(attribute.Key(name))
			by = append(by, value.AsString())
		}
		(*values)[strings.Join(by, " ")] += n
	}
	for _, scope := range collected.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != q.Metric {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, point := range data.DataPoints {
					add(point.Attributes, float64(point.Count))
				}
			case metricdata.Histogram[int64]:
				for _, point := range data.DataPoints {
					add(point.Attributes, float64(point.Sum))
				}
			case metricdata.Sum[int64]:
				for _, point := range data.DataPoints {
					add(point.Attributes, float64(point.Value))
				}
			case metricdata.Gauge[int64]:
				for _, point := range data.DataPoints {
					add(point.Attributes, float64(point.Value))
				}
			case metricdata.Gauge[float64]:
				for _, point := range data.DataPoints {
					add(point.Attributes, point.Value)
				}
			}
		}
	}
	return nil
}
