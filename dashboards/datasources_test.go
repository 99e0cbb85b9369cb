package dashboards_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"gopkg.in/yaml.v3"

	"nervous/app/reconcile"
)

// The parts of Grafana's provisioning file that lead from one kind of telemetry to another.
type provisioned struct {
	Name, UID, Type string
	JSONData        struct {
		Exemplars []struct {
			Name          string
			DatasourceUID string `yaml:"datasourceUid"`
		} `yaml:"exemplarTraceIdDestinations"`
		ServiceMap struct {
			DatasourceUID string `yaml:"datasourceUid"`
		} `yaml:"serviceMap"`
		NodeGraph struct{ Enabled bool } `yaml:"nodeGraph"`
		Logs      struct {
			DatasourceUID string `yaml:"datasourceUid"`
			CustomQuery   bool   `yaml:"customQuery"`
			Query         string
			Tags          []struct{ Key, Value string }
		} `yaml:"tracesToLogsV2"`
		Metrics struct {
			DatasourceUID string `yaml:"datasourceUid"`
			Queries       []struct{ Name, Query string }
		} `yaml:"tracesToMetrics"`
		DerivedFields []struct {
			MatcherType   string `yaml:"matcherType"`
			MatcherRegex  string `yaml:"matcherRegex"`
			DatasourceUID string `yaml:"datasourceUid"`
			URL           string
		} `yaml:"derivedFields"`
	} `yaml:"jsonData"`
}

func datasources(t *testing.T) map[string]provisioned {
	t.Helper()
	content, err := os.ReadFile("../deploy/grafana/provisioning/datasources/datasources.yml")
	require.NoError(t, err)
	var file struct{ Datasources []provisioned }
	require.NoError(t, yaml.Unmarshal(content, &file))
	byUID := map[string]provisioned{}
	for _, d := range file.Datasources {
		require.Equal(t, d.Type, d.UID, "dashboards and links name a datasource by its uid")
		byUID[d.UID] = d
	}
	return byUID
}

func TestSignalsLeadToEachOther(t *testing.T) {
	t.Parallel()
	all := datasources(t)
	metrics, traces, logs := all["prometheus"].JSONData, all["tempo"].JSONData, all["loki"].JSONData

	// From the dot on a graph to its trace. OTLP's exemplars say trace_id, those of Tempo's own metrics traceID.
	var labels []string
	for _, destination := range metrics.Exemplars {
		require.Equal(t, "tempo", destination.DatasourceUID)
		labels = append(labels, destination.Name)
	}
	require.ElementsMatch(t, []string{"trace_id", "traceID"}, labels)

	// From a span to its log lines, which Loki indexes by the service and keeps beside the trace's id.
	require.Equal(t, "loki", traces.Logs.DatasourceUID)
	require.True(t, traces.Logs.CustomQuery)
	require.Equal(t, `{$${__tags}} | trace_id = "$${__trace.traceId}"`, traces.Logs.Query)
	require.Len(t, traces.Logs.Tags, 1)
	require.Equal(t, string(semconv.ServiceNameKey), traces.Logs.Tags[0].Key)
	require.Equal(t, "service_name", traces.Logs.Tags[0].Value)

	// And back, from a line that has a trace's id.
	require.Len(t, logs.DerivedFields, 1)
	require.Equal(t, "label", logs.DerivedFields[0].MatcherType)
	require.Equal(t, "trace_id", logs.DerivedFields[0].MatcherRegex)
	require.Equal(t, "tempo", logs.DerivedFields[0].DatasourceUID)
	require.Equal(t, "$${__value.raw}", logs.DerivedFields[0].URL)

	// From a span to the graph of its kind, and the map of who calls whom.
	require.Equal(t, "prometheus", traces.Metrics.DatasourceUID)
	require.Equal(t, "prometheus", traces.ServiceMap.DatasourceUID)
	require.True(t, traces.NodeGraph.Enabled)
}

// onSpans are the attributes that lead from a span to a graph, each with a value that it has once the scripts of
// loadtest/ have run.
var onSpans = map[string]string{
	string(semconv.HTTPRouteKey):      "/posts/trending",
	string(semconv.DBSystemNameKey):   semconv.DBSystemNameRedis.Value.AsString(),
	string(semconv.DBQuerySummaryKey): "TopPosts",
	"cache.name":                      "trending",
	"buffer.name":                     "live",
	"reconcile.strategy":              string(reconcile.Buffered),
	"ratelimit.policy":                "overall",
}

// tag is where Grafana puts in what the span says. It shows a link only on a span that has all of them.
var tag = regexp.MustCompile(`\$\$\{__span\.tags\["([^"]+)"\]\}`)

// graphsOfSpans returns the queries that lead from a span to a graph, for spans that say what onSpans does.
func graphsOfSpans(t *testing.T) []query {
	t.Helper()
	var queries []query
	for _, q := range datasources(t)["tempo"].JSONData.Metrics.Queries {
		filled := tag.ReplaceAllStringFunc(q.Query, func(found string) string {
			name := tag.FindStringSubmatch(found)[1]
			require.Contains(t, onSpans, name, q.Name)
			return onSpans[name]
		})
		require.NotEqual(t, q.Query, filled, "%s is the same on each span", q.Name)
		require.NotContains(t, filled, "$", "%s: Grafana would look for it in the environment", q.Name)
		queries = append(queries, query{q.Name, filled})
	}
	require.NotEmpty(t, queries)
	return queries
}

func TestSpansLeadToMetricsThatExist(t *testing.T) {
	t.Parallel()
	known := exported(t)
	for _, q := range graphsOfSpans(t) {
		metrics := metricsIn(q.expression)
		require.NotEmpty(t, metrics, q.where)
		for _, metric := range metrics {
			require.True(t, slices.Contains(known, metric), "%s: nothing exports %s", q.where, metric)
		}
	}
}

// The attributes are the code's, and so are the values, or the live test would ask for what never happens.
func TestSpansSayWhatLeadsToTheirMetrics(t *testing.T) {
	t.Parallel()
	code := source(t)
	set := append(attributesIn(code), conventionalAttributes...)
	queries := datasources(t)["tempo"].JSONData.Metrics.Queries
	for attribute, value := range onSpans {
		require.Contains(t, set, attribute, "nothing sets it on a span")
		require.True(t, says(code, value), "is %s ever %q?", attribute, value)
		require.True(t, slices.ContainsFunc(queries, func(q struct{ Name, Query string }) bool {
			return strings.Contains(q.Query, attribute)
		}), "from a span with %s no way leads to a graph", attribute)
	}
}
