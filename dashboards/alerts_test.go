package dashboards_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/deploy/prometheus/rules"
)

func allRules(t *testing.T) []rules.Rule {
	t.Helper()
	all, err := rules.All()
	require.NoError(t, err)
	return all
}

// A rule on a metric that nobody exports never has a value, and its own test, which makes the metric up, does not see
// that.
func TestRulesNameMetricsThatExist(t *testing.T) {
	t.Parallel()
	known := exported(t)
	for _, r := range allRules(t) {
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
	for _, r := range allRules(t) {
		recorded[r.Record] = r.Expr
	}
	for _, r := range allRules(t) {
		if r.Alert == "" {
			continue
		}
		require.Contains(t, panels, r.Annotations["dashboard"], r.Alert)
		require.True(t, showsSome(panels[r.Annotations["dashboard"]], r.Expr, recorded),
			"%s: %q shows none of its metrics", r.Alert, panels[r.Annotations["dashboard"]].Title)
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
