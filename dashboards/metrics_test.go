package dashboards_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"
	"go.opentelemetry.io/otel/semconv/v1.43.0/goconv"
	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"
	"go.opentelemetry.io/otel/semconv/v1.43.0/otelconv"

	"nervous/app/api"
	"nervous/app/buffer"
	"nervous/app/cache"
	"nervous/app/ratelimit"
	"nervous/app/reconcile"
	"nervous/app/telemetry"
)

type kind int

const (
	counter kind = iota
	gauge
	histogram
	nativeHistogram // one series, whose buckets follow what was measured
)

// measured is an instrument, whoever has it.
type measured struct {
	name, unit string
	kind       kind
}

// What the service exports. The names are the code's own constants, so that renaming a metric breaks this package and
// not, weeks later, a panel.
var (
	ours = []measured{
		{cache.MetricRequests, "{request}", counter},
		{cache.MetricFills, "{fill}", counter},
		{cache.MetricFillDuration, "s", histogram},
		{cache.MetricLeaseRequests, "{request}", counter},
		{cache.MetricLeaseWait, "s", histogram},
		{cache.MetricWaits, "{request}", counter},
		{cache.MetricWaiters, "{request}", gauge},
		{cache.MetricValueAge, "s", histogram},
		{cache.MetricRefused, "{value}", counter},
		{cache.MetricTTL, "s", gauge},
		{cache.MetricDeletes, "{deletion}", counter},
		{cache.MetricReduced, "{capability}", gauge},
		{cache.MetricBreaker, "{state}", gauge},
		{buffer.MetricDepth, "{item}", gauge},
		{buffer.MetricGenerations, "{generation}", gauge},
		{buffer.MetricOldestAge, "s", gauge},
		{buffer.MetricAdds, "{item}", counter},
		{buffer.MetricFlushItems, "{item}", histogram},
		{buffer.MetricFlushDuration, "s", histogram},
		{buffer.MetricFlushes, "{flush}", counter},
		{buffer.MetricDropped, "{item}", counter},
		{reconcile.MetricItems, "{payment}", counter},
		{reconcile.MetricProgress, "1", gauge},
		{reconcile.MetricDuration, "s", histogram},
		{reconcile.MetricLastEnded, "s", gauge},
		{reconcile.MetricLastRoundTrips, "{round_trip}", gauge},
		{reconcile.MetricLastPayments, "{payment}", gauge},
		{reconcile.MetricTakeovers, "{job}", counter},
		{reconcile.MetricReopened, "{payment}", counter},
		{reconcile.MetricDisagreeing, "{payment}", gauge},
		{reconcile.MetricEvents, "{event}", counter},
		{reconcile.MetricPayments, "{payment}", gauge},
		{ratelimit.MetricDecisions, "{decision}", counter},
		{ratelimit.MetricCheckDuration, "s", histogram},
		{ratelimit.MetricLimit, "{unit}", gauge},
		{ratelimit.MetricCallerSpent, "{unit}", gauge},
		{ratelimit.MetricCallersLimited, "{caller}", gauge},
		{ratelimit.MetricCallerDenials, "{denial}", gauge},
		{ratelimit.MetricReplicas, "{replica}", gauge},
		{ratelimit.MetricBudget, "s", gauge},
		{ratelimit.MetricBreaker, "{state}", gauge},
		{ratelimit.MetricReduced, "{capability}", gauge},
		{api.MetricRoundTrips, "{round_trip}", histogram},
		{telemetry.StoreRoundTrips, "{round_trip}", counter},
		{telemetry.TelemetrySpans, "{span}", counter},
		{telemetry.TelemetryCalls, "{call}", counter},
		{telemetry.WireCalls, "{call}", counter},
		{telemetry.WireRoundTrips, "{round_trip}", counter},
		{telemetry.ConnectionWaits, "{wait}", counter},
	}
	conventional = []struct {
		instrument interface {
			Name() string
			Unit() string
		}
		kind kind
	}{
		{httpconv.ServerRequestDuration{}, histogram},
		{dbconv.ClientOperationDuration{}, histogram},
		{dbconv.ClientConnectionCount{}, gauge},
		{dbconv.ClientConnectionMax{}, gauge},
		{dbconv.ClientConnectionTimeouts{}, counter},
		{goconv.GoroutineCount{}, gauge},
		{goconv.MemoryUsed{}, gauge},
		{goconv.MemoryAllocated{}, counter},
		{otelconv.SDKSpanStarted{}, counter},
		{otelconv.SDKExporterSpanExported{}, counter},
		{otelconv.SDKProcessorSpanProcessed{}, counter},
		{otelconv.SDKProcessorSpanQueueSize{}, gauge},
		{otelconv.SDKProcessorSpanQueueCapacity{}, gauge},
	}
	// Prometheus's own.
	builtIn = []string{"ALERTS", "target_info"}
	// deploy/local's, while it does harm on purpose.
	deployment = []measured{{"fault.running", "{fault}", gauge}}
	// What the servers say of themselves, as their exporters call it (oliver006/redis_exporter,
	// prometheuscommunity/postgres-exporter with its collector of statements).
	exporters = []string{
		"redis_commands_total", "redis_commands_duration_seconds_total", "redis_evicted_keys_total",
		"redis_expired_keys_total", "redis_memory_used_bytes", "redis_memory_max_bytes",
		"pg_stat_statements_calls_total", "pg_stat_statements_seconds_total",
	}
)

// What the collector measures: itself, and each span that it was sent.
var collector = []measured{
	{"otelcol.receiver.accepted.spans", "", counter},
	{"otelcol.receiver.refused.spans", "", counter},
	{"otelcol.processor.tail_sampling.count_traces_sampled", "", counter},
	{"otelcol.processor.tail_sampling.global_count_traces_sampled", "", counter},
	{"otelcol.processor.tail_sampling.sampling_trace_dropped_too_early", "", counter},
	{"otelcol.exporter.send_failed_spans", "", counter},
	{"otelcol.exporter.enqueue_failed_spans", "", counter},
	{"traces.span.metrics.duration", "s", histogram},
}

// What k6 measures by itself (https://grafana.com/docs/k6/latest/using-k6/metrics/reference), as far as it is shown. Of
// k6 1.8.1 and 2.2.0 it arrives under the same names with the same labels; dropped iterations, which there were none
// of, were not compared.
var k6BuiltIn = []measured{
	{"http_reqs", "", counter},
	{"http_req_failed", "", counter},
	{"http_req_duration", "ms", nativeHistogram},
	{"checks", "", counter},
	{"vus", "", gauge},
	{"vus_max", "", gauge},
	{"dropped_iterations", "", counter},
}

// series returns the names that Prometheus's OTLP receiver gives to an instrument (UnderscoreEscapingWithSuffixes).
func series(name, unit string, k kind) []string {
	name = strings.ReplaceAll(name, ".", "_")
	for short, suffix := range map[string]string{"s": "_seconds", "ms": "_milliseconds", "By": "_bytes"} {
		if unit == short && !strings.HasSuffix(name, suffix) {
			name += suffix
		}
	}
	switch k {
	case counter:
		return []string{name + "_total"}
	case histogram:
		return []string{name + "_bucket", name + "_sum", name + "_count"}
	case gauge:
		if unit == "1" {
			return []string{name + "_ratio"}
		}
	}
	return []string{name}
}

// exported returns every series name that a query may use.
func exported(t *testing.T) []string {
	t.Helper()
	names := append(slices.Clone(builtIn), exporters...)
	names = append(names, ofReplicas()...)
	for _, r := range allRules(t) {
		names = append(names, r.Record)
	}
	for _, m := range slices.Concat(collector, deployment) {
		names = append(names, series(m.name, m.unit, m.kind)...)
	}
	for _, m := range k6BuiltIn {
		names = append(names, series("k6_"+m.name, m.unit, m.kind)...)
	}
	return append(names, scriptMetrics(t)...)
}

// declaration is how a load script makes a metric of its own; `true` marks a Trend of times.
var declaration = regexp.MustCompile(`new (Counter|Gauge|Rate|Trend)\('(\w+)'(, true)?\)`)

func scriptMetrics(t *testing.T) []string {
	t.Helper()
	kinds := map[string]kind{"Counter": counter, "Rate": counter, "Gauge": gauge, "Trend": nativeHistogram}
	var names []string
	for _, script := range []string{"lib/measure.js", "lib/phases.js", "lib/limiter.js", "ratelimit.js"} {
		source, err := os.ReadFile(filepath.Join("../loadtest", script))
		require.NoError(t, err)
		for _, found := range declaration.FindAllStringSubmatch(string(source), -1) {
			unit := ""
			if found[3] != "" {
				unit = "ms"
			}
			names = append(names, series("k6_"+found[2], unit, kinds[found[1]])...)
		}
	}
	require.NotEmpty(t, names, "the script's metrics are declared in another way now")
	return names
}

// PromQL without its strings, label lists and ranges has no other words left than functions (before a parenthesis),
// keywords and metrics.
var (
	quoted    = regexp.MustCompile(`"[^"]*"`)
	labels    = regexp.MustCompile(`\{[^}]*\}|\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)`)
	ranges    = regexp.MustCompile(`\[[^\]]*\]|\boffset \w+`)
	word      = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*\b\s*\(?`)
	operators = []string{"and", "or", "unless", "bool", "by", "without", "on", "ignoring", "inf", "nan"}
)

func metricsIn(expression string) []string {
	bare := ranges.ReplaceAllString(labels.ReplaceAllString(quoted.ReplaceAllString(expression, `""`), " "), " ")
	var metrics []string
	for _, w := range word.FindAllString(bare, -1) {
		name := strings.TrimSpace(w)
		if strings.HasSuffix(name, "(") || slices.Contains(operators, strings.ToLower(name)) {
			continue
		}
		metrics = append(metrics, name)
	}
	return metrics
}

func TestMetricsAreFoundInQueries(t *testing.T) {
	t.Parallel()
	for expression, want := range map[string][]string{
		`sum by (le, strategy) (rate(a_bucket{x=~"b|c(d)"}[$__rate_interval]))`: {"a_bucket"},
		`11 * sum(a_total) by (job) - b_total or vector(0)`:                     {"a_total", "b_total"},
		`a{x="}"} / on (instance) group_left () b`:                              {"a", "b"},
	} {
		require.Equal(t, want, metricsIn(expression))
	}
}

func TestQueriesNameMetricsThatExist(t *testing.T) {
	t.Parallel()
	known := exported(t)
	forEach(t, func(t *testing.T, d dashboard) {
		for _, q := range d.queries() {
			metrics := metricsIn(q.expression)
			require.NotEmpty(t, metrics, "%s: no metric found in %s", q.where, q.expression)
			for _, metric := range metrics {
				require.True(t, slices.Contains(known, metric), "%s: nothing exports %s", q.where, metric)
			}
		}
	})
}

// A window narrower than four samples leaves gaps; Grafana knows how wide it must be. Only what is compared with a rate
// limit has a window of its own: the limit's.
func TestRatesFollowTheInterval(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, d dashboard) {
		for _, p := range d.graphs() {
			allowed := []string{"[$__rate_interval]", "[$__rate_interval:]", "[$__range]"}
			if p.comparesWithLimit() {
				allowed = append(allowed, "[1m]")
			}
			for _, target := range p.Targets {
				for _, window := range ranges.FindAllString(target.Expr, -1) {
					require.Contains(t, allowed, window, p.Title)
				}
			}
		}
	})
}

func (p panel) comparesWithLimit() bool {
	return slices.ContainsFunc(p.Targets, func(target target) bool {
		return slices.Contains(metricsIn(target.Expr), "ratelimit_limit")
	})
}

// Every metric of the mechanism is worth a panel, or it is not worth its cost.
func TestEveryMetricOfOursIsShown(t *testing.T) {
	t.Parallel()
	shown := map[string]bool{}
	for _, d := range load(t) {
		for _, q := range d.queries() {
			for _, metric := range metricsIn(q.expression) {
				shown[metric] = true
			}
		}
	}
	for _, m := range ours {
		names := series(m.name, m.unit, m.kind)
		require.True(t, slices.ContainsFunc(names, func(name string) bool { return shown[name] }),
			"%s is exported and on no dashboard", m.name)
	}
}

type query struct{ where, expression string }

// queries returns what the panels and the annotations ask of Prometheus.
func (d dashboard) queries() []query {
	var queries []query
	for _, p := range d.graphs() {
		for _, target := range p.Targets {
			if target.Datasource == prometheus {
				queries = append(queries, query{p.Title + ", " + target.RefID, target.Expr})
			}
		}
	}
	for _, a := range d.Annotations.List {
		queries = append(queries, query{"annotation " + a.Name, a.Expr})
	}
	return queries
}
