package reconcile_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/rpc"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9/logging"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"nervous/app/reconcile"
)

// A replica that is to be killed or paused must be a process of its own. It is this test binary, started again with
// settings in its environment: a small service around one Reconciler, which the test asks over the process's standard
// input and output.
const settingsVariable = "RECONCILE_WORKER"

func TestMain(m *testing.M) {
	logging.Disable() // go-redis reports every fault that we inject, and so does Run
	slog.SetDefault(slog.New(slog.DiscardHandler))
	if s := os.Getenv(settingsVariable); s != "" {
		serve([]byte(s))
		return
	}
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == fmt.Sprint(runtime.GOMAXPROCS(0)) {
		_ = parallel.Value.Set("6") // they wait for time to pass more than for a processor
	}
	os.Exit(m.Run())
}

// settings are a worker's: where its stores are, and its Reconciler's options.
type settings struct {
	Network network
	Options reconcile.Options
}

// serve is the worker's main. It ends with its standard input, so that it does not outlive the test.
func serve(encoded []byte) {
	var s settings
	if err := json.Unmarshal(encoded, &s); err != nil {
		panic(err)
	}
	w := &worker{spans: tracetest.NewSpanRecorder(), metrics: sdkmetric.NewManualReader()}
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(w.spans)))
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(w.metrics)))
	pool, rdb, err := s.Network.connect(context.Background())
	if err != nil {
		panic(err)
	}
	w.reconciler = reconcile.New(pool, rdb, s.Options)
	go func() { _ = w.reconciler.Run(context.Background()) }()
	server := rpc.NewServer()
	if err := server.RegisterName("Worker", w); err != nil {
		panic(err)
	}
	server.ServeConn(pipes{os.Stdin, os.Stdout})
}

// worker is what the test can ask of one; net/rpc prescribes the form of its methods.
type worker struct {
	reconciler *reconcile.Reconciler
	spans      *tracetest.SpanRecorder
	metrics    *sdkmetric.ManualReader
}

// Order is what to start.
type Order struct {
	Strategy reconcile.Strategy
	Limit    int
}

// Started is a run that was started, in which trace; or the one that stood in the way.
type Started struct {
	Job     reconcile.Job
	Trace   string
	Running uuid.UUID
}

// Start starts a run.
func (w *worker) Start(o Order, started *Started) (err error) {
	ctx, span := otel.Tracer("test").Start(context.Background(), "ask for a run")
	defer span.End()
	started.Trace = span.SpanContext().TraceID().String()
	started.Job, err = w.reconciler.Start(ctx, o.Strategy, o.Limit)
	if running, ok := errors.AsType[reconcile.RunningError](err); ok {
		started.Running = running.ID
		return nil
	}
	return err
}

// Event is what became of a live event, and in which trace it came.
type Event struct {
	Path  reconcile.Path
	Trace string
}

// Settled takes a live event.
func (w *worker) Settled(payment int64, event *Event) (err error) {
	ctx, span := otel.Tracer("test").Start(context.Background(), "settled")
	defer span.End()
	event.Trace = span.SpanContext().TraceID().String()
	event.Path, err = w.reconciler.Settled(ctx, payment)
	return err
}

// Span is a span that has ended.
type Span struct {
	Name, Trace, Error string
	Root               bool
	// Links are traces, by kind.
	Links      map[string][]string
	Attributes map[string]string
	Events     []string
}

// Spans lists all spans, the stores' among them.
func (w *worker) Spans(_ struct{}, spans *[]Span) error {
	for _, ended := range w.spans.Ended() {
		*spans = append(*spans, describe(ended))
	}
	return nil
}

func describe(ended sdktrace.ReadOnlySpan) Span {
	s := Span{
		Name: ended.Name(), Trace: ended.SpanContext().TraceID().String(), Error: ended.Status().Description,
		Root: !ended.Parent().IsValid(), Links: map[string][]string{}, Attributes: map[string]string{},
	}
	for _, link := range ended.Links() {
		for _, a := range link.Attributes {
			s.Links[a.Value.AsString()] = append(s.Links[a.Value.AsString()], traceOf(link.SpanContext))
		}
	}
	for _, a := range ended.Attributes() {
		s.Attributes[string(a.Key)] = a.Value.String()
	}
	for _, e := range ended.Events() {
		text := e.Name
		for _, a := range e.Attributes {
			if a.Key == "exception.message" {
				text = a.Value.AsString()
			}
		}
		s.Events = append(s.Events, text)
	}
	return s
}

func traceOf(span trace.SpanContext) string { return span.TraceID().String() }

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
