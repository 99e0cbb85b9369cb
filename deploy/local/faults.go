package main

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// metricFault is 1 while this program does harm on purpose and 0 afterwards, by fault. Dashboards draw it as a region
// behind every graph, so that nobody looks for another reason.
const metricFault = "fault.running"

// faults tells Prometheus what harm is being done, by the way that the replicas' metrics go. That a mark does not
// arrive is no reason to stop: the run measures all the same.
type faults struct {
	provider *sdkmetric.MeterProvider
	running  metric.Int64Gauge
}

func newFaults(ctx context.Context, metrics string) (*faults, error) {
	exporter, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(metrics))
	if err != nil {
		return nil, err
	}
	provider := sdkmetric.NewMeterProvider(
		sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithInterval(5*time.Second))),
		sdkmetric.WithResource(resource.NewSchemaless(semconv.ServiceName("deploy/local"))),
	)
	running, err := provider.Meter("nervous/deploy/local").Int64Gauge(metricFault, metric.WithUnit("{fault}"),
		metric.WithDescription("Whether harm is done on purpose, by fault."))
	return &faults{provider, running}, err
}

// begin marks the beginning of a fault; what it returns marks the end.
func (f *faults) begin(ctx context.Context, fault string) (end func()) {
	what := metric.WithAttributes(attribute.String("fault", fault))
	mark := func(running int64) {
		f.running.Record(ctx, running, what)
		_ = f.provider.ForceFlush(ctx)
	}
	mark(1)
	return func() { mark(0) }
}

func (f *faults) close(ctx context.Context) { _ = f.provider.Shutdown(ctx) }
