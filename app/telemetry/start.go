// Package telemetry turns every call to a store into a span and a counted round-trip, and exports traces, metrics and
// logs over OTLP. It is the only importer of the OpenTelemetry SDK; everything else speaks the API, so that a mechanism
// which is lifted into another service takes none of this with it.
//
// Nothing is thinned out here: what the spans say, the servers can confirm (`INFO commandstats`, `pg_stat_statements`).
// Choosing what is worth keeping is the collector's work.
//
// Telemetry fails quietly. When no collector answers, the service runs as before: queues are bounded and drop what is
// too much, a warning appears once in a while, and shutdown takes no longer than its context allows. Spans and metrics
// carry the names of commands, scripts and queries, and never a key, a value, a parameter or the text of an error, in
// which servers like to quote all three.
package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/runtime"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// scope is the name under which this package's instruments and spans arrive.
const scope = "nervous/app/telemetry"

// Config is what the standard OTEL_* variables do not say; those are read from the process's environment.
type Config struct {
	// Instance tells replicas apart: the resource's service.instance.id, Prometheus's label `instance`.
	Instance string
	// LogWriter gets one JSON object a line. Defaults to nowhere.
	LogWriter io.Writer
	// LogLevel is the least severe level that is logged, on LogWriter and over OTLP. Defaults to slog.LevelInfo.
	LogLevel slog.Leveler
}

// Start sets the global tracer, meter and logger providers, the propagator (W3C) and slog's default logger. It does not
// wait for a collector. shutdown flushes all three signals at the same time and is bounded by its context.
//
// OTEL_SDK_DISABLED and OTEL_{TRACES,METRICS,LOGS}_EXPORTER (otlp, console, none) switch signals on and off.
// OTEL_EXPORTER_OTLP_* say where they go and how: protocol (grpc, http/protobuf), endpoint, headers and certificates,
// for all signals or for one. OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_BSP_*, OTEL_BLRP_*
// and OTEL_METRIC_EXPORT_INTERVAL mean what the specification says; only the defaults are ours. The error lists every
// variable whose value is not supported.
func Start(ctx context.Context, cfg Config) (shutdown func(context.Context) error, err error) {
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(
		propagation.TraceContext{}, propagation.Baggage{}))
	local := startLogging(cfg)

	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return func(context.Context) error { return nil }, nil
	}
	if err := environmentFaults(); err != nil {
		return nil, err
	}
	described, err := describe(ctx, cfg)
	if err != nil {
		return nil, err
	}
	running := providers{instance: cfg.Instance, resource: described, logs: local}
	// Metrics come first: exporters and processors look for the meter provider, to count what they lose, as they are
	// made.
	for _, signal := range []struct {
		name  string
		start func(context.Context, []string) error
	}{{metrics, running.startMetrics}, {traces, running.startTraces}, {logs, running.startLogs}} {
		if names := exporterNames(signal.name); len(names) > 0 {
			if err := signal.start(ctx, names); err != nil {
				return nil, errors.Join(err, running.shutdown(ctx))
			}
		}
	}
	return running.shutdown, nil
}

// describe says who is reporting. What the environment says about itself comes last and so wins.
func describe(ctx context.Context, cfg Config) (*resource.Resource, error) {
	attributes := []resource.Option{resource.WithAttributes(
		semconv.ServiceName("nervous"), semconv.ServiceInstanceID(cfg.Instance))}
	if build, ok := debug.ReadBuildInfo(); ok {
		attributes = append(attributes, resource.WithAttributes(semconv.ServiceVersion(build.Main.Version)))
	}
	faulty, err := mendResourceAttributes()
	if err != nil {
		return nil, err
	}
	if faulty { // its value is not repeated: an operator may have put anything there
		slog.WarnContext(ctx, "OTEL_RESOURCE_ATTRIBUTES is not understood in parts, which are ignored: it must be pairs "+
			"key=value, separated by commas")
	}
	return resource.New(ctx, append(attributes, resource.WithTelemetrySDK(), resource.WithFromEnv())...)
}

// providers are the signals that were started: each adds what ends it.
type providers struct {
	instance string
	resource *resource.Resource
	logs     logging
	ends     []func(context.Context) error
}

// shutdown ends all signals at once, so that one silent backend does not use up the time of the others.
func (p *providers) shutdown(ctx context.Context) error {
	faults := make([]error, len(p.ends))
	var group sync.WaitGroup
	for i, end := range p.ends {
		group.Go(func() { faults[i] = end(ctx) })
	}
	group.Wait()
	return errors.Join(faults...)
}

func (p *providers) startMetrics(ctx context.Context, exporters []string) error {
	options := []sdkmetric.Option{sdkmetric.WithResource(p.resource), sdkmetric.WithView(view)}
	var reading []sdkmetric.PeriodicReaderOption
	if unset("OTEL_METRIC_EXPORT_INTERVAL") {
		reading = append(reading, sdkmetric.WithInterval(15*time.Second)) // the SDK's minute is too coarse for a spike
	}
	for _, name := range exporters {
		exporter, err := newMetricExporter(ctx, name)
		if err != nil {
			return fmt.Errorf("export metrics: %w", err)
		}
		options = append(options, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter, reading...)))
	}
	provider := sdkmetric.NewMeterProvider(options...)
	p.ends = append(p.ends, provider.Shutdown)
	otel.SetMeterProvider(provider)
	return runtime.Start(runtime.WithMeterProvider(provider))
}

// How many spans may wait for export, and go at once. A spike makes thousands in an instant: of a burst of 20,000 the
// SDK's 2,048 and 512 lose three quarters and more, and of 20,000 a second as many if the collector takes 100 ms to
// answer; these lose none of the one, nor of three seconds of the other (BenchmarkSpansLost).
const queueSize, batchSize = 32768, 2048

func (p *providers) startTraces(ctx context.Context, exporters []string) error {
	var batching []sdktrace.BatchSpanProcessorOption
	if unset("OTEL_BSP_MAX_QUEUE_SIZE") {
		batching = append(batching, sdktrace.WithMaxQueueSize(queueSize))
	}
	if unset("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") {
		batching = append(batching, sdktrace.WithMaxExportBatchSize(batchSize))
	}
	counting, err := newSpanCounter(otel.GetMeterProvider())
	if err != nil {
		return err
	}
	options := append(sampling(), sdktrace.WithResource(p.resource), sdktrace.WithSpanProcessor(counting))
	var first *countingExporter // the ledger's
	for _, name := range exporters {
		exporter, err := newSpanExporter(ctx, name)
		if err != nil {
			return fmt.Errorf("export traces: %w", err)
		}
		counted := &countingExporter{SpanExporter: exporter}
		first = cmp.Or(first, counted)
		options = append(options, sdktrace.WithBatcher(counted, batching...))
	}
	provider := sdktrace.NewTracerProvider(options...)
	process.opened(p.instance, counting, first, provider.ForceFlush)
	p.ends = append(p.ends, provider.Shutdown)
	otel.SetTracerProvider(provider)
	return nil
}

// sampling samples every span, whatever a caller's traceparent says: an upstream flag 00 must not make calls invisible.
// OTEL_TRACES_SAMPLER, which the SDK reads when it is given no sampler, overrules that.
func sampling() []sdktrace.TracerProviderOption {
	if unset("OTEL_TRACES_SAMPLER") {
		return []sdktrace.TracerProviderOption{sdktrace.WithSampler(sdktrace.AlwaysSample())}
	}
	return nil
}

func (p *providers) startLogs(ctx context.Context, exporters []string) error {
	options := []sdklog.LoggerProviderOption{sdklog.WithResource(p.resource)}
	for _, name := range exporters {
		exporter, err := newLogExporter(ctx, name)
		if err != nil {
			return fmt.Errorf("export logs: %w", err)
		}
		options = append(options, sdklog.WithProcessor(sdklog.NewBatchProcessor(exporter)))
	}
	provider := sdklog.NewLoggerProvider(options...)
	p.ends = append(p.ends, provider.Shutdown)
	p.logs.alsoTo(provider)
	return nil
}

func unset(variable string) bool { return os.Getenv(variable) == "" }
