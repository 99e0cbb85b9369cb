package dashboards_test

import (
	"encoding/json"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"nervous/app/buffer"
	"nervous/app/cache"
	"nervous/app/ratelimit"
	"nervous/app/reconcile"
)

// search is a query in TraceQL, and the panel that it belongs to.
type search struct {
	where, query string
	of           *panel // nil for a link of the whole dashboard
}

// searches returns everything that the dashboard asks, or leads to asking, of Tempo.
func (d dashboard) searches(t *testing.T) []search {
	t.Helper()
	var all []search
	for _, l := range d.Links {
		if query, ok := explored(t, l.URL); ok {
			all = append(all, search{where: "link " + l.Title, query: query})
		}
	}
	for _, p := range d.graphs() {
		for _, l := range p.links(t) {
			query, ok := explored(t, l.URL)
			require.True(t, ok, "%q, link %q does not lead to traces", p.Title, l.Title)
			all = append(all, search{p.Title + ", link " + l.Title, query, &p})
		}
		for _, target := range p.Targets {
			if target.QueryType == "traceql" {
				all = append(all, search{p.Title + ", " + target.RefID, target.Query, &p})
			}
		}
	}
	return all
}

// links returns the data links of the panel: those of all its series, and those of one.
func (p panel) links(t *testing.T) []link {
	t.Helper()
	links := slices.Clone(p.FieldConfig.Defaults.Links)
	for _, o := range p.FieldConfig.Overrides {
		for _, property := range o.Properties {
			if property.ID == "links" {
				var own []link
				require.NoError(t, json.Unmarshal(property.Value, &own))
				links = append(links, own...)
			}
		}
	}
	return links
}

// explored returns the query of an address that opens Grafana's Explore, where that asks Tempo.
func explored(t *testing.T, address string) (query string, ok bool) {
	t.Helper()
	parsed, err := url.Parse(address)
	require.NoError(t, err)
	if parsed.Path != "/explore" {
		return "", false
	}
	var panes map[string]struct {
		Datasource string
		Queries    []struct {
			Datasource       datasource
			QueryType, Query string
			Limit            int
		}
		Range struct{ From, To string }
	}
	require.NoError(t, json.Unmarshal([]byte(parsed.Query().Get("panes")), &panes), address)
	require.Len(t, panes, 1)
	for _, pane := range panes {
		require.Equal(t, "tempo", pane.Datasource)
		require.Len(t, pane.Queries, 1)
		asked := pane.Queries[0]
		require.Equal(t, tempo, asked.Datasource)
		require.Equal(t, "traceql", asked.QueryType)
		require.Positive(t, asked.Limit)
		require.Contains(t, [][2]string{{"${__from}", "${__to}"}, {"now-15m", "now"}},
			[2]string{pane.Range.From, pane.Range.To}, "the link shows another time than the panel")
		query = asked.Query
	}
	return query, true
}

// explained are the metrics whose every count or measurement is also a span, or the state of a thing that has spans:
// who sees one of them rise wants to see the traces that made it rise.
var explained = []string{
	cache.MetricFills, cache.MetricFillDuration, cache.MetricLeaseRequests, cache.MetricLeaseWait, cache.MetricWaits,
	cache.MetricWaiters,
	cache.MetricValueAge, cache.MetricRefused, cache.MetricBreaker,
	buffer.MetricDepth, buffer.MetricGenerations, buffer.MetricOldestAge,
	buffer.MetricFlushItems, buffer.MetricFlushDuration, buffer.MetricFlushes,
	reconcile.MetricProgress, reconcile.MetricDuration, reconcile.MetricTakeovers,
	ratelimit.MetricDecisions, ratelimit.MetricCheckDuration, ratelimit.MetricCallersLimited, ratelimit.MetricBreaker,
}

func TestContentionLeadsToItsTraces(t *testing.T) {
	t.Parallel()
	var names []string
	for _, m := range ours {
		if slices.Contains(explained, m.name) {
			names = append(names, series(m.name, m.unit, m.kind)...)
		}
	}
	names = append(names, traced()...)
	forEach(t, func(t *testing.T, d dashboard) {
		for _, p := range d.graphs() {
			if p.Type == "table" || p.Type == "bargauge" {
				continue // which compare strategies, and show no moment that one could look into
			}
			shows := func(target target) bool {
				return slices.ContainsFunc(metricsIn(target.Expr), func(m string) bool { return slices.Contains(names, m) })
			}
			if slices.ContainsFunc(p.Targets, shows) {
				require.NotEmpty(t, p.links(t), "%q shows what spans explain, and no link leads to them", p.Title)
			}
		}
	})
}

// What a query may name of a span: TraceQL's own words, and the attributes, with their scope before the first dot.
var (
	scoped     = regexp.MustCompile(`\b(span|resource|event|link)([.:])([a-zA-Z_][\w.]*)`)
	compared   = regexp.MustCompile(`([\w.:]+) (?:=|!=|=~) "([^"]*)"`)
	grafanas   = regexp.MustCompile(`\$\{([\w.]+)\}`)
	intrinsics = []string{"link:traceID", "event:name"}
)

// conventionalAttributes are set through the semantic conventions' functions, by otelhttp's handler or by ours.
var conventionalAttributes = []string{
	string(semconv.HTTPRouteKey), string(semconv.HTTPResponseStatusCodeKey),
	string(semconv.DBSystemNameKey), string(semconv.DBOperationNameKey), string(semconv.DBQuerySummaryKey),
	string(semconv.DBStoredProcedureNameKey),
}

var resourceAttributes = []string{string(semconv.ServiceNameKey), string(semconv.ServiceInstanceIDKey)}

// A search for an attribute that nobody sets finds nothing and says nothing.
func TestSearchesNameAttributesThatTheCodeSets(t *testing.T) {
	t.Parallel()
	ownAttributes := attributesIn(source(t))
	require.Contains(t, ownAttributes, "cache.result", "attributes are made in another way now")
	// The strategy of a request has the same name on its span and on its metrics.
	own := append(ownAttributes, "strategy")
	known := map[string][]string{
		"span": append(own, conventionalAttributes...), "resource": resourceAttributes,
	}
	forEach(t, func(t *testing.T, d dashboard) {
		for _, s := range d.searches(t) {
			for _, found := range scoped.FindAllStringSubmatch(s.query, -1) {
				name, scope, isAttribute, attribute := found[0], found[1], found[2] == ".", found[3]
				if isAttribute {
					require.Contains(t, known[scope], attribute, "%s: nothing sets %s", s.where, name)
				} else {
					require.Contains(t, intrinsics, name, s.where)
				}
			}
		}
	})
}

// ownAttribute is how our code makes an attribute of a span. One of a metric has no dot in its name.
var ownAttribute = regexp.MustCompile(`attribute\.\w+\("(\w+(?:\.\w+)+)"`)

func attributesIn(source string) []string {
	var names []string
	for _, found := range ownAttribute.FindAllStringSubmatch(source, -1) {
		names = append(names, found[1])
	}
	return names
}

// saidTogether are texts that the code puts together from parts, or takes from the conventions.
var saidTogether = []string{"value.unreadable", "value.too_large", semconv.DBSystemNamePostgreSQL.Value.AsString()}

// Nor does a search for a value that no attribute ever has.
func TestSearchesCompareWithWhatTheCodeSays(t *testing.T) {
	t.Parallel()
	code := source(t)
	forEach(t, func(t *testing.T, d dashboard) {
		for _, s := range d.searches(t) {
			for _, found := range compared.FindAllStringSubmatch(s.query, -1) {
				if grafanas.MatchString(found[2]) {
					continue // the value is a label's
				}
				for value := range strings.SplitSeq(found[2], "|") {
					require.True(t, says(code, value), "%s: is %s ever %q?", s.where, found[1], value)
				}
			}
		}
	})
}

// says tells whether a text is one of the code's, or the name of a statement.
func says(code, text string) bool {
	return strings.Contains(code, `"`+text+`"`) || strings.Contains(code, "-- name: "+text+" ") ||
		slices.Contains(saidTogether, text)
}

// source is the service's own: its Go code without the tests, and its SQL.
func source(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	require.NoError(t, filepath.WalkDir("../app", func(path string, entry fs.DirEntry, err error) error {
		isOurs := strings.HasSuffix(path, ".sql") || strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go")
		if err != nil || entry.IsDir() || !isOurs {
			return err
		}
		content, err := os.ReadFile(path)
		all.Write(content)
		return err
	}))
	return all.String()
}

// A link that names a label of the series needs series that have it.
func TestSearchesUseLabelsThatTheSeriesHave(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, d dashboard) {
		for _, s := range d.searches(t) {
			for _, found := range grafanas.FindAllStringSubmatch(s.query, -1) {
				label, ok := strings.CutPrefix(found[1], "__field.labels.")
				if !ok {
					require.Equal(t, "__value.raw", found[1], "%s: Grafana knows no such thing", s.where)
					continue
				}
				grouped := regexp.MustCompile(`by \([^)]*\b` + label + `\b[^)]*\)`)
				require.True(t, slices.ContainsFunc(s.of.Targets, func(asked target) bool {
					return grouped.MatchString(asked.Expr)
				}), "%s: no query keeps the label %s", s.where, label)
			}
		}
	})
}

// A table of spans has a column for each attribute that was selected, one of traces has none; the map asks Prometheus
// for what Tempo has drawn it from.
func TestTablesShowWhatTheySelect(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, d dashboard) {
		for _, p := range d.graphs() {
			if p.Datasource != tempo {
				continue
			}
			require.Len(t, p.Targets, 1, p.Title)
			switch asked := p.Targets[0]; asked.QueryType {
			case "serviceMap":
				require.Equal(t, "nodeGraph", p.Type, p.Title)
			case "traceql":
				require.Equal(t, "table", p.Type, p.Title)
				want := "traces"
				if strings.Contains(asked.Query, "select(") {
					want = "spans"
				}
				require.Equal(t, want, asked.TableType, p.Title)
			default:
				require.Fail(t, p.Title+" asks Tempo in a way of its own: "+asked.QueryType)
			}
		}
	})
}
