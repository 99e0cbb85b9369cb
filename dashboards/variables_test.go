package dashboards_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// labelValues is a variable's query: the series, and the label whose values are offered.
var labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)

func TestVariablesOfferWhatThereIs(t *testing.T) {
	t.Parallel()
	known := exported(t)
	forEach(t, func(t *testing.T, d dashboard) {
		require.NotEmpty(t, d.Templating.List)
		require.Equal(t, "instance", d.Templating.List[0].Name, "links pass it on")
		for _, v := range d.Templating.List {
			require.Contains(t, []string{"instance", "strategy"}, v.Name)
			require.NotEmpty(t, v.Description)
			require.Equal(t, prometheus, v.Datasource)
			require.True(t, v.Multi && v.IncludeAll, v.Name)
			require.Equal(t, ".*", v.AllValue, "All includes series without the label, and a replica that is gone")
			asked := labelValues.FindStringSubmatch(v.Query.Query)
			require.NotNil(t, asked, v.Query.Query)
			require.Equal(t, v.Name, asked[2])
			for _, metric := range metricsIn(asked[1]) {
				require.Contains(t, known, metric)
			}
		}
	})
}

// selector is a metric with its labels.
var selector = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}`)

// What is chosen above holds for every number below: a query that forgets a variable shows something else than it says.
func TestQueriesHeedTheVariables(t *testing.T) {
	t.Parallel()
	replicas := ofReplicas()
	forEach(t, func(t *testing.T, d dashboard) {
		hasStrategy := slices.ContainsFunc(d.Templating.List, func(v variable) bool { return v.Name == "strategy" })
		for _, p := range d.graphs() {
			for _, asked := range p.Targets {
				named, selected := 0, 0
				for _, metric := range metricsIn(asked.Expr) {
					if slices.Contains(replicas, metric) {
						named++
					}
				}
				for _, found := range selector.FindAllStringSubmatch(asked.Expr, -1) {
					if slices.Contains(replicas, found[1]) {
						require.Contains(t, found[2], `instance=~"$instance"`, "%q, %s", p.Title, asked.RefID)
						selected++
					}
				}
				require.Equal(t, named, selected, "%q, %s: a metric without labels", p.Title, asked.RefID)
				if hasStrategy && asked.LegendFormat == "{{strategy}}" {
					require.Contains(t, asked.Expr, `strategy=~"$strategy"`, "%q, %s", p.Title, asked.RefID)
				}
			}
		}
		if hasStrategy {
			require.True(t, slices.ContainsFunc(d.graphs(), func(p panel) bool {
				return slices.ContainsFunc(p.Targets, func(asked target) bool { return strings.Contains(asked.Expr, "$strategy") })
			}), "the variable has no use")
		}
	})
}

// ofReplicas are the series that replicas export, and that tell by `instance` which one did.
func ofReplicas() []string {
	var names []string
	for _, m := range ours {
		names = append(names, series(m.name, m.unit, m.kind)...)
	}
	for _, m := range conventional {
		names = append(names, series(m.instrument.Name(), m.instrument.Unit(), m.kind)...)
	}
	return names
}
