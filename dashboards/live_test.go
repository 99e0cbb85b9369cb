package dashboards_test

import (
	"encoding/json"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An empty panel is a promise that was never looked at. With PROMETHEUS_URL this asks every panel's query of a server
// that has seen the scripts of loadtest/ in the last 15 minutes; there is nothing to ask without one.
//
//	PROMETHEUS_URL=http://127.0.0.1:9090 go test -count=1 -run TestPanelsHaveData ./dashboards
func TestPanelsHaveData(t *testing.T) {
	t.Parallel()
	server := live(t, "PROMETHEUS_URL")
	collected := hasData(t, server, target{Expr: "otelcol_receiver_accepted_spans_total"})
	forEach(t, func(t *testing.T, d dashboard) {
		for _, p := range d.graphs() {
			for _, target := range p.Targets {
				switch {
				case target.Datasource != prometheus:
				case !collected && asksCollector(target):
					t.Logf("%q, query %s: this deployment has no collector", p.Title, target.RefID)
				case !hasData(t, server, target):
					t.Errorf("%q, query %s is empty: %s", p.Title, target.RefID, target.Expr)
				}
			}
		}
	})
}

// asksCollector tells whether a query is for what only the collector measures; deploy/local goes without one where the
// machine has none.
func asksCollector(asked target) bool {
	return slices.ContainsFunc(collector, func(m measured) bool {
		return strings.Contains(asked.Expr, series(m.name, m.unit, m.kind)[0])
	})
}

// So is a way from a span to a graph that is empty.
func TestSpansLeadToData(t *testing.T) {
	t.Parallel()
	server := live(t, "PROMETHEUS_URL")
	for _, q := range graphsOfSpans(t) {
		if !hasData(t, server, target{Expr: q.expression}) {
			t.Errorf("%s is empty: %s", q.where, q.expression)
		}
	}
}

// That nothing was found is often right; that nothing can be, because TraceQL does not read so, never is. With
// TEMPO_URL every search is asked of a real Tempo.
//
//	TEMPO_URL=http://127.0.0.1:3200 go test -count=1 -v -run TestSearchesAreTraceQL ./dashboards
func TestSearchesAreTraceQL(t *testing.T) {
	t.Parallel()
	server := live(t, "TEMPO_URL")
	forEach(t, func(t *testing.T, d dashboard) {
		for _, s := range d.searches(t) {
			if s.query == "${__value.raw}" {
				continue // a trace's id
			}
			query := grafanas.ReplaceAllString(s.query, "of the series")
			found, refusal := findTraces(t, server, query)
			require.Empty(t, refusal, "%s: %s", s.where, query)
			t.Logf("%d traces: %s: %s", found, s.where, query)
		}
	})
}

// live returns the address of a server that the environment names.
func live(t *testing.T, variable string) string {
	t.Helper()
	server := os.Getenv(variable)
	if server == "" {
		t.Skip(variable + " is not set")
	}
	return server
}

func findTraces(t *testing.T, server, query string) (found int, refusal string) {
	t.Helper()
	now := time.Now()
	form := url.Values{
		"q": {query}, "limit": {"20"}, "start": {seconds(now.Add(-15 * time.Minute))}, "end": {seconds(now)},
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server+"/api/search?"+form.Encode(), nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	if response.StatusCode != http.StatusOK {
		return 0, string(body)
	}
	var answer struct{ Traces []any }
	require.NoError(t, json.Unmarshal(body, &answer))
	return len(answer.Traces), ""
}

// What Grafana would put in for a range of 15 minutes and samples every 5 s.
var asGrafana = strings.NewReplacer("$__rate_interval", "20s", "$__range", "900s")

func hasData(t *testing.T, server string, asked target) bool {
	t.Helper()
	now := time.Now()
	path, form := "/api/v1/query", url.Values{"query": {asGrafana.Replace(asked.Expr)}}
	if !asked.Instant {
		path = "/api/v1/query_range"
		form.Set("start", seconds(now.Add(-15*time.Minute)))
		form.Set("end", seconds(now))
		form.Set("step", "5s")
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server+path, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Value  sample
				Values []sample
			}
		}
	}
	require.NoError(t, json.NewDecoder(response.Body).Decode(&answer))
	require.Empty(t, answer.Error, asked.Expr)
	for _, series := range answer.Data.Result {
		for _, s := range append(series.Values, series.Value) {
			if s.isNumber() {
				return true
			}
		}
	}
	return false
}

func seconds(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// sample is Prometheus's pair of a time and a number in quotes.
type sample []any

func (s sample) isNumber() bool {
	if len(s) != 2 {
		return false
	}
	text, _ := s[1].(string)
	value, err := strconv.ParseFloat(text, 64)
	return err == nil && !math.IsNaN(value)
}
