package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdoutlog"
	"go.opentelemetry.io/otel/exporters/stdout/stdoutmetric"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// The names of a signal in the OTEL_* variables.
const (
	traces  = "TRACES"
	metrics = "METRICS"
	logs    = "LOGS"
)

const (
	grpc         = "grpc"
	httpProtobuf = "http/protobuf" // the default, as the specification recommends
)

// exporterNames are what OTEL_{signal}_EXPORTER names, without "none": otlp if it is not set.
func exporterNames(signal string) (names []string) {
	value := os.Getenv("OTEL_" + signal + "_EXPORTER")
	if value == "" {
		value = "otlp"
	}
	for name := range strings.SplitSeq(value, ",") {
		if name = strings.TrimSpace(name); name != "none" && name != "" {
			names = append(names, name)
		}
	}
	return names
}

// otlpSetting reads OTEL_EXPORTER_OTLP_{signal}_{name}, or OTEL_EXPORTER_OTLP_{name} if that is not set, and says which
// variable it was.
func otlpSetting(signal, name string) (variable, value string) {
	for _, variable = range []string{"OTEL_EXPORTER_OTLP_" + signal + "_" + name, "OTEL_EXPORTER_OTLP_" + name} {
		if value = os.Getenv(variable); value != "" {
			return variable, value
		}
	}
	return variable, ""
}

func usesGRPC(signal string) bool {
	_, protocol := otlpSetting(signal, "PROTOCOL")
	return protocol == grpc
}

// environmentFaults returns every OTEL_* variable whose value the exporters would ignore. They only log that, and
// telemetry would be lost without a reason to be seen. What may be a secret is not repeated.
func environmentFaults() error {
	var faults []error
	unless := func(ok bool, variable, format string, args ...any) {
		fault := fmt.Errorf("%s %s", variable, fmt.Sprintf(format, args...))
		if !ok && !slices.ContainsFunc(faults, func(e error) bool { return e.Error() == fault.Error() }) {
			faults = append(faults, fault)
		}
	}
	for _, signal := range []string{traces, metrics, logs} {
		names := exporterNames(signal)
		for _, name := range names {
			unless(name == "otlp" || name == "console", "OTEL_"+signal+"_EXPORTER",
				"names %q and must name otlp, console or none", name)
		}
		if !slices.Contains(names, "otlp") {
			continue
		}
		variable, protocol := otlpSetting(signal, "PROTOCOL")
		unless(protocol == "" || protocol == grpc || protocol == httpProtobuf, variable,
			"is %q and must be %s or %s", protocol, grpc, httpProtobuf)
		variable, endpoint := otlpSetting(signal, "ENDPOINT")
		unless(endpoint == "" || isEndpoint(endpoint), variable, "must be a URL, as http://collector:4318 is")
		variable, headers := otlpSetting(signal, "HEADERS")
		unless(areHeaders(headers), variable, "must be pairs key=value, separated by commas, with values as in a URL")
		variable, compression := otlpSetting(signal, "COMPRESSION")
		unless(slices.Contains([]string{"", "none", "gzip"}, compression), variable,
			"is %q and must be none or gzip", compression)
		for _, name := range []string{"CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"} {
			variable, file := otlpSetting(signal, name)
			if file != "" {
				_, err := os.ReadFile(file) //nolint:gosec // the file is the operator's choice
				unless(err == nil, variable, "names a file that cannot be read: %v", err)
			}
		}
	}
	sampler := os.Getenv("OTEL_TRACES_SAMPLER")
	unless(sampler == "" || slices.Contains(samplers, sampler), "OTEL_TRACES_SAMPLER",
		"is %q and must be one of %s", sampler, strings.Join(samplers, ", "))
	return errors.Join(faults...)
}

// samplers are those that the SDK knows.
var samplers = []string{
	"always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off",
	"parentbased_traceidratio",
}

func isEndpoint(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

func areHeaders(text string) bool {
	if strings.TrimSpace(text) == "" {
		return true
	}
	for pair := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if _, err := url.PathUnescape(value); !ok || err != nil || strings.TrimSpace(key) == "" {
			return false
		}
	}
	return true
}

// mendResourceAttributes leaves the pairs of OTEL_RESOURCE_ATTRIBUTES that can be read, also for the SDK, which reads
// the variable too and repeats in its message what it cannot read.
func mendResourceAttributes() (faulty bool, err error) {
	const variable = "OTEL_RESOURCE_ATTRIBUTES"
	var good []string
	for pair := range strings.SplitSeq(os.Getenv(variable), ",") {
		key, value, ok := strings.Cut(pair, "=")
		_, badKey := url.PathUnescape(key)
		_, badValue := url.PathUnescape(value)
		if ok && strings.TrimSpace(key) != "" && badKey == nil && badValue == nil {
			good = append(good, pair)
		}
	}
	mended := strings.Join(good, ",")
	if mended == os.Getenv(variable) {
		return false, nil
	}
	return true, os.Setenv(variable, mended)
}

func newSpanExporter(ctx context.Context, name string) (sdktrace.SpanExporter, error) {
	switch {
	case name == "console":
		return stdouttrace.New(stdouttrace.WithWriter(os.Stdout))
	case usesGRPC(traces):
		return otlptracegrpc.New(ctx)
	}
	return otlptracehttp.New(ctx)
}

func newMetricExporter(ctx context.Context, name string) (sdkmetric.Exporter, error) {
	switch {
	case name == "console":
		return stdoutmetric.New(stdoutmetric.WithWriter(os.Stdout))
	case usesGRPC(metrics):
		return otlpmetricgrpc.New(ctx)
	}
	return otlpmetrichttp.New(ctx)
}

func newLogExporter(ctx context.Context, name string) (sdklog.Exporter, error) {
	switch {
	case name == "console":
		return stdoutlog.New(stdoutlog.WithWriter(os.Stdout))
	case usesGRPC(logs):
		return otlploggrpc.New(ctx)
	}
	return otlploghttp.New(ctx)
}
