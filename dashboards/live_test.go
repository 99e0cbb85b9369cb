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

// emptyInHealth are the panels that have something to say only when something is wrong, and the fault that makes it so.
var emptyInHealth = map[string]string{
	"Which alerts fire?": "a naive phase of loadtest/trending.js: with two dozen requests the pool is at its bound",
}

// drawnInTrouble are the annotations of what need not happen, and what makes it happen.
var drawnInTrouble = map[string]string{
	"Alerts that fire": "as above",
	"Breaker open":     "a Redis that is stopped or paused",
	"Faults injected":  "deploy/local, which kills who leads and who works, and replaces all",
	"Replica started":  "a start within the time that is looked at",
}

// An empty panel is a promise that was never looked at. With PROMETHEUS_URL this asks every query of every dashboard of
// a server that has seen the scripts of loadtest/ in the last 15 minutes; there is nothing to ask without one.
//
//	PROMETHEUS_URL=http://127.0.0.1:9090 go test -count=1 -run TestPanelsHaveData ./dashboards
func TestPanelsHaveData(t *testing.T) {
	t.Parallel()
	server := live(t, "PROMETHEUS_URL")
	forEach(t, func(t *testing.T, d dashboard) {
		for _, p := range d.graphs() {
			for _, target := range p.Targets {
				fault, quiet := emptyInHealth[p.Title]
				switch missing := missingPart(t, server, target.Expr); {
				case target.Datasource != prometheus:
				case missing != "":
					t.Logf("%q, query %s: this deployment has no %s", p.Title, target.RefID, missing)
				case quiet:
					target.Instant = false // a fault that is over counts
					t.Logf("%q, query %s has data: %t; %s", p.Title, target.RefID, hasData(t, server, target), fault)
				case !hasData(t, server, target):
					t.Errorf("%q, query %s is empty: %s", p.Title, target.RefID, target.Expr)
				}
			}
		}
	})
}

// A variable without values hides that there is a choice, and an annotation that is never drawn what has happened.
func TestVariablesAndAnnotationsHaveData(t *testing.T) {
	t.Parallel()
	server := live(t, "PROMETHEUS_URL")
	forEach(t, func(t *testing.T, d dashboard) {
		for _, v := range d.Templating.List {
			asked := labelValues.FindStringSubmatch(v.Query.Query)
			var answer struct{ Data []string }
			ask(t, server+"/api/v1/label/"+asked[2]+"/values", url.Values{"match[]": {asked[1]}}, &answer)
			if len(answer.Data) == 0 {
				t.Errorf("variable %q is empty: %s", v.Name, v.Query.Query)
			}
		}
		for _, a := range d.Annotations.List {
			drawn, cause := hasData(t, server, target{Expr: a.Expr}), drawnInTrouble[a.Name]
			if !drawn && cause == "" {
				t.Errorf("annotation %q is empty: %s", a.Name, a.Expr)
			}
		}
	})
}

// missingPart names what a deployment may do without and the expression asks for: deploy/local has a collector, and
// exporters, only where the machine does.
func missingPart(t *testing.T, server, expression string) string {
	t.Helper()
	parts := map[string][]string{"collector": nil, "exporter of Redis": nil, "exporter of Postgres": nil}
	for _, m := range collector {
		parts["collector"] = append(parts["collector"], series(m.name, m.unit, m.kind)[0])
	}
	for _, name := range exporters {
		part := "exporter of Redis"
		if strings.HasPrefix(name, "pg_") {
			part = "exporter of Postgres"
		}
		parts[part] = append(parts[part], name)
	}
	sign := map[string]string{
		"collector":         "otelcol_receiver_accepted_spans_total",
		"exporter of Redis": "redis_up", "exporter of Postgres": "pg_up",
	}
	for part, names := range parts {
		asks := slices.ContainsFunc(metricsIn(expression), func(m string) bool { return slices.Contains(names, m) })
		if asks && !hasData(t, server, target{Expr: sign[part]}) {
			return part
		}
	}
	return ""
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

// What Grafana would put in for a range of 15 minutes, samples every 5 s and All of each variable.
var asGrafana = strings.NewReplacer("$__rate_interval", "20s", "$__range", "900s", "$instance", ".*", "$strategy", ".*")

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
	var answer struct {
		Data struct {
			Result []struct {
				Value  sample
				Values []sample
			}
		}
	}
	ask(t, server+path, form, &answer)
	for _, series := range answer.Data.Result {
		for _, s := range append(series.Values, series.Value) {
			if s.isNumber() {
				return true
			}
		}
	}
	return false
}

// ask decodes what Prometheus answers to a form.
func ask(t *testing.T, address string, form url.Values, into any) {
	t.Helper()
	method, body := http.MethodPost, io.Reader(strings.NewReader(form.Encode()))
	if strings.HasSuffix(address, "/values") { // which takes no form
		method, body, address = http.MethodGet, nil, address+"?"+form.Encode()
	}
	request, err := http.NewRequestWithContext(t.Context(), method, address, body)
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, "%s: %s", form, content)
	require.NoError(t, json.Unmarshal(content, into))
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
