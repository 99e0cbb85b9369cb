package dashboards_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// rule is one of Prometheus's: an alert, or a series that is computed from others.
type rule struct {
	Alert, Record, Expr string
	Annotations         struct{ Dashboard string }
}

func rules(t *testing.T) []rule {
	t.Helper()
	paths, err := filepath.Glob("../deploy/prometheus/rules/*.yml")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	var all []rule
	for _, path := range paths {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		var file struct {
			Groups []struct{ Rules []rule }
		}
		require.NoError(t, yaml.Unmarshal(content, &file), path)
		for _, group := range file.Groups {
			all = append(all, group.Rules...)
		}
	}
	return all
}

// A rule on a metric that nobody exports never has a value, and its own test, which makes the metric up, does not see
// that.
func TestRulesNameMetricsThatExist(t *testing.T) {
	t.Parallel()
	known := exported(t)
	for _, r := range rules(t) {
		for _, metric := range metricsIn(r.Expr) {
			require.Contains(t, known, metric, "%s%s", r.Alert, r.Record)
		}
	}
}

// Whoever is called in the night opens the panel that shows why.
func TestAlertsLeadToAPanelThatShowsThem(t *testing.T) {
	t.Parallel()
	panels := map[string]panel{}
	for _, d := range load(t) {
		for _, p := range d.graphs() {
			panels["/d/"+d.UID+"?viewPanel="+strconv.Itoa(p.ID)] = p
		}
	}
	recorded := map[string]string{}
	for _, r := range rules(t) {
		recorded[r.Record] = r.Expr
	}
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		require.Contains(t, panels, r.Annotations.Dashboard, r.Alert)
		require.True(t, showsSome(panels[r.Annotations.Dashboard], r.Expr, recorded),
			"%s: %q shows none of its metrics", r.Alert, panels[r.Annotations.Dashboard].Title)
	}
}

// showsSome tells whether a panel asks for one of the metrics of an expression, itself or by a recorded one.
func showsSome(p panel, expression string, recorded map[string]string) bool {
	var asked strings.Builder
	for _, target := range p.Targets {
		asked.WriteString(target.Expr + " ")
	}
	shown := stems(asked.String(), recorded)
	for stem := range stems(expression, recorded) {
		if shown[stem] {
			return true
		}
	}
	return false
}

// stems are the metrics of an expression without what a histogram adds to its name, those of recorded ones included.
func stems(expression string, recorded map[string]string) map[string]bool {
	found := map[string]bool{}
	for _, metric := range metricsIn(expression) {
		if metric == "objective" {
			continue
		}
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			metric = strings.TrimSuffix(metric, suffix)
		}
		found[metric] = true
		if from, ok := recorded[metric]; ok {
			for stem := range stems(from, recorded) {
				found[stem] = true
			}
		}
	}
	return found
}
