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
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
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
// OTEL_SDK_DISABLED and OTEL_{TRACES,METRICS,LOGS}_EXPORTER (otlp, none) switch signals off, OTEL_EXPORTER_OTLP_* say
// where they go, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_BSP_*, OTEL_BLRP_* and
// OTEL_METRIC_EXPORT_INTERVAL mean what the specification says; only the defaults are ours.
func Start(ctx context.Context, cfg Config) (shutdown func(context.Context) error, err error) {
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(
		propagation.TraceContext{}, propagation.Baggage{}))
	logs := startLogging(cfg)

	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return func(context.Context) error { return nil }, nil
	}
	described, err := describe(ctx, cfg)
	if err != nil {
		return nil, err
	}
	running := providers{instance: cfg.Instance, resource: described, logs: logs}
	var wanted []func(context.Context) error
	// Metrics come first: exporters and processors look for the meter provider, to count what they lose, as they are
	// made.
	for _, signal := range []struct {
		variable string
		start    func(context.Context) error
	}{
		{"OTEL_METRICS_EXPORTER", running.startMetrics},
		{"OTEL_TRACES_EXPORTER", running.startTraces},
		{"OTEL_LOGS_EXPORTER", running.startLogs},
	} {
		switch value := os.Getenv(signal.variable); value {
		case "", "otlp":
			wanted = append(wanted, signal.start)
		case "none":
		default:
			err = errors.Join(err, fmt.Errorf("%s=%s: must be otlp or none", signal.variable, value))
		}
	}
	if err != nil {
		return nil, err
	}
	for _, start := range wanted {
		if err := start(ctx); err != nil {
			return nil, errors.Join(err, running.shutdown(ctx))
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

func (p *providers) startMetrics(ctx context.Context) error {
	exporter, err := otlpmetrichttp.New(ctx)
	if err != nil {
		return fmt.Errorf("export metrics: %w", err)
	}
	var options []sdkmetric.PeriodicReaderOption
	if unset("OTEL_METRIC_EXPORT_INTERVAL") {
		options = append(options, sdkmetric.WithInterval(15*time.Second)) // the SDK's minute is too coarse for a spike
	}
	provider := sdkmetric.NewMeterProvider(
		sdkmetric.WithResource(p.resource),
		sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter, options...)),
		sdkmetric.WithView(view),
	)
	p.ends = append(p.ends, provider.Shutdown)
	otel.SetMeterProvider(provider)
	return runtime.Start(runtime.WithMeterProvider(provider))
}

// How many spans may wait for export, and go at once. A spike makes thousands in an instant: of a burst of 20,000 the
// SDK's 2,048 and 512 lose three quarters and more, and of 20,000 a second as many if the collector takes 100 ms to
// answer; these lose none of the one, nor of three seconds of the other (BenchmarkSpansLost).
const queueSize, batchSize = 32768, 2048

func (p *providers) startTraces(ctx context.Context) error {
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return fmt.Errorf("export traces: %w", err)
	}
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
	exported := &countingExporter{SpanExporter: exporter}
	provider := sdktrace.NewTracerProvider(append(sampling(),
		sdktrace.WithResource(p.resource),
		sdktrace.WithSpanProcessor(counting),
		sdktrace.WithBatcher(exported, batching...),
	)...)
	process.opened(p.instance, counting, exported, provider.ForceFlush)
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

func (p *providers) startLogs(ctx context.Context) error {
	exporter, err := otlploghttp.New(ctx)
	if err != nil {
		return fmt.Errorf("export logs: %w", err)
	}
	provider := sdklog.NewLoggerProvider(
		sdklog.WithResource(p.resource),
		sdklog.WithProcessor(sdklog.NewBatchProcessor(exporter)),
	)
	p.ends = append(p.ends, provider.Shutdown)
	p.logs.alsoTo(provider)
	return nil
}

func unset(variable string) bool { return os.Getenv(variable) == "" }
