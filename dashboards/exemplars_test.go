package dashboards_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

// traced are the buckets whose exemplars lead to traces: those of the histograms that the service records, because it
// records them in the context of the span that was measured. What k6 measures outside has no trace; and the age of what
// was served is that of plain hits, of which the collector keeps so few that most dots would lead nowhere.
func traced() []string {
	var buckets []string
	add := func(name, unit string, k kind) {
		if k == histogram && name != cache.MetricValueAge {
			buckets = append(buckets, series(name, unit, k)[0])
		}
	}
	for _, m := range ours {
		add(m.name, m.unit, m.kind)
	}
	for _, m := range conventional {
		add(m.instrument.Name(), m.instrument.Unit(), m.kind)
	}
	return buckets
}

// A curve says that something is slow, a dot on it which request was. One query of a panel asks for the dots: they are
// the same for every quantile.
func TestLatenciesLeadToTraces(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, d dashboard) {
		for _, p := range d.graphs() {
			dots := map[string]int{}
			for _, target := range p.Targets {
				buckets := tracedIn(target)
				require.False(t, target.Exemplar && len(buckets) == 0, "%q, %s has no exemplars to ask for", p.Title, target.RefID)
				if p.Type != "timeseries" {
					require.False(t, target.Exemplar, "%q has no place for exemplars", p.Title)
					continue
				}
				for _, bucket := range buckets {
					dots[bucket] += 0
					if target.Exemplar {
						dots[bucket]++
					}
				}
			}
			for bucket, queries := range dots {
				require.Equal(t, 1, queries, "%q: how many of its queries ask for the exemplars of %s", p.Title, bucket)
			}
		}
	})
}

func tracedIn(asked target) []string {
	if asked.Datasource != prometheus || !strings.Contains(asked.Expr, "histogram_quantile") {
		return nil
	}
	known := traced()
	return slices.DeleteFunc(metricsIn(asked.Expr), func(metric string) bool { return !slices.Contains(known, metric) })
}
