// Package dashboards_test holds the dashboards to what a reader may expect of every panel: it says what it answers and
// how to read it, it names metrics that the code exports, a strategy has the same colour everywhere, and where it shows
// trouble it leads to the traces of just that trouble.
package dashboards_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/ratelimit"
	"nervous/app/reconcile"
	"nervous/app/trending"
)

// The parts of Grafana's classic dashboard JSON that the tests look at.
type (
	dashboard struct {
		UID           string
		Title         string
		Description   string
		Refresh       string
		SchemaVersion int
		Time          struct{ From, To string }
		Links         []struct {
			Title, URL, Tooltip   string
			KeepTime, IncludeVars bool
		}
		Templating struct {
			List []variable
		}
		Annotations struct {
			List []struct {
				Name       string
				Expr       string
				Datasource datasource
				Filter     struct{ IDs []int } // of the panels that show it; all do without one
			}
		}
		Panels []panel
	}
	variable struct {
		Name, Description, Type, AllValue string
		Multi, IncludeAll                 bool
		Datasource                        datasource
		Query                             struct{ Query string }
	}
	panel struct {
		ID              int
		Type            string
		Title           string
		Description     string
		GridPos         area
		Datasource      datasource
		Targets         []target
		Transformations []any
		Links           []link
		FieldConfig     struct {
			Defaults struct {
				Unit       string
				NoValue    string
				Links      []link
				Thresholds struct{ Steps []step }
			}
			Overrides []override
		}
	}
	datasource struct{ Type, UID string }
	area       struct{ X, Y, W, H int }
	target     struct {
		RefID        string
		Expr         string
		LegendFormat string
		Instant      bool
		Exemplar     bool
		Datasource   datasource
		// What is asked of Tempo.
		QueryType string
		Query     string
		TableType string
	}
	link     struct{ Title, URL string }
	step     struct{ Value *float64 } // nil: from the beginning
	override struct {
		Matcher    struct{ ID, Options string }
		Properties []struct {
			ID    string
			Value json.RawMessage
		}
	}
)

var (
	prometheus = datasource{"prometheus", "prometheus"}
	tempo      = datasource{"tempo", "tempo"}
)

// colours are the strategies' own, from naive to protected; the control, which needs no memory, is none of these.
var colours = map[string]string{
	string(trending.NPlusOne):         "red", // and reconcile's, which has the same name and fault
	string(trending.Preload):          "orange",
	string(reconcile.BatchedReads):    "orange",
	string(trending.TTL):              "yellow",
	string(trending.Lease):            "green",
	string(reconcile.Buffered):        "green",
	string(reconcile.SingleStatement): "blue",
	string(ratelimit.FixedWindow):     "red",
	string(ratelimit.Exact):           "green",
}

// Those of results: memory is blue, work for others purple, trouble the colours of fire.
var resultColours = map[string]string{
	string(cache.ResultHit):    "blue",
	string(cache.ResultStale):  "yellow",
	string(cache.ResultWait):   "purple",
	string(cache.ResultMiss):   "orange",
	string(cache.ResultBypass): "#8e8e8e",
	string(cache.ResultError):  "dark-red",
}

func load(t *testing.T) []dashboard {
	t.Helper()
	paths, err := filepath.Glob("*.json")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	dashboards := make([]dashboard, len(paths))
	for i, path := range paths {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(content, &dashboards[i]), path)
		require.Equal(t, path, dashboards[i].UID+".json", "links find a dashboard by its uid, people by its file")
	}
	return dashboards
}

// forEach runs a test once for each dashboard.
func forEach(t *testing.T, test func(*testing.T, dashboard)) {
	t.Helper()
	for _, d := range load(t) {
		t.Run(d.UID, func(t *testing.T) {
			t.Parallel()
			test(t, d)
		})
	}
}

// graphs are the panels that show data.
func (d dashboard) graphs() []panel {
	var graphs []panel
	for _, p := range d.Panels {
		if p.Type != "row" && p.Type != "text" {
			graphs = append(graphs, p)
		}
	}
	return graphs
}

func TestDashboardsAreProvisionable(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, d dashboard) {
		require.NotEmpty(t, d.Title)
		require.NotEmpty(t, d.Description)
		require.LessOrEqual(t, d.SchemaVersion, 42, "newer schemas are not reliable as files")
		require.Equal(t, "5s", d.Refresh, "the interval at which samples arrive")
		require.Equal(t, "now-15m", d.Time.From, "a demo is minutes long")
		for _, link := range d.Links {
			require.NotEmpty(t, link.Tooltip, link.Title)
		}
	})
}

// Whoever has set a range of time and chosen a replica here wants to see the same there. The strategies stay behind:
// each feature has others, and one that it does not know would leave its graphs empty.
func TestDashboardsLeadToEachOther(t *testing.T) {
	t.Parallel()
	all := load(t)
	var uids []string
	for _, d := range all {
		uids = append(uids, d.UID)
	}
	for _, d := range all {
		var reached []string
		for _, l := range d.Links {
			if uid, ok := opens(l.URL); ok {
				reached = append(reached, uid)
				require.True(t, l.KeepTime, "%s: the link %q forgets the range of time", d.UID, l.Title)
			}
		}
		require.ElementsMatch(t, uids, reached, "%s leads to itself and all others", d.UID)
		for _, p := range d.Panels {
			for _, l := range p.Links {
				uid, ok := opens(l.URL)
				require.True(t, ok && slices.Contains(uids, uid), "%s, %q: the link %q leads nowhere", d.UID, p.Title, l.Title)
				require.Contains(t, l.URL, "&${__url_time_range}", "%s, %q: forgets the range of time", d.UID, p.Title)
			}
		}
	}
}

// opens returns the dashboard that an address opens, if it passes the chosen replicas on.
func opens(address string) (uid string, ok bool) {
	path, query, _ := strings.Cut(address, "?")
	uid, ok = strings.CutPrefix(path, "/d/")
	return uid, ok && strings.HasPrefix(query, "${instance:queryparam}")
}

func TestPanelsExplainThemselves(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, d dashboard) {
		for _, p := range d.graphs() {
			require.NotEmpty(t, p.Title, "panel %d", p.ID)
			require.Greater(t, len(p.Description), 40, "%q: how is it to be read?", p.Title)
			require.NotEmpty(t, p.Targets, "%q shows nothing", p.Title)
			if p.Type != "nodeGraph" {
				require.NotEmpty(t, p.FieldConfig.Defaults.NoValue, "%q: what does it mean that nothing is there?", p.Title)
			}
			for _, target := range p.Targets {
				require.Equal(t, p.Datasource, target.Datasource, "%q, query %s", p.Title, target.RefID)
			}
			if p.Datasource == tempo {
				continue // whose columns and nodes have units of their own
			}
			require.Equal(t, prometheus, p.Datasource, p.Title)
			require.NotEmpty(t, p.FieldConfig.Defaults.Unit, "%q: a number without a unit", p.Title)
		}
	})
}

// An annotation that is for panels which are gone is drawn nowhere.
func TestAnnotationsAreForPanelsThatExist(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, d dashboard) {
		for _, a := range d.Annotations.List {
			for _, id := range a.Filter.IDs {
				shows := func(p panel) bool { return p.ID == id && p.Type == "timeseries" }
				require.True(t, slices.ContainsFunc(d.Panels, shows), "%q: panel %d", a.Name, id)
			}
		}
	})
}

func TestPanelsHaveTheirPlace(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, d dashboard) {
		ids := map[int]string{}
		for i, p := range d.Panels {
			require.NotContains(t, ids, p.ID, "%q has the id of another panel", p.Title)
			ids[p.ID] = p.Title
			require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, "%q leaves the page", p.Title)
			for _, other := range d.Panels[:i] {
				require.False(t, p.GridPos.overlaps(other.GridPos), "%q covers %q", p.Title, other.Title)
			}
			refs := map[string]bool{}
			for _, target := range p.Targets {
				require.False(t, refs[target.RefID], "%q has two queries %s", p.Title, target.RefID)
				refs[target.RefID] = true
			}
		}
	})
}

func (a area) overlaps(b area) bool {
	return a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H
}

func TestThingsKeepTheirColours(t *testing.T) {
	t.Parallel()
	features := [][]string{names(trending.Strategies()), names(reconcile.Strategies()), names(ratelimit.Strategies())}
	for _, strategies := range features {
		for _, s := range strategies {
			require.Contains(t, colours, s)
		}
	}
	forEach(t, func(t *testing.T, d dashboard) {
		for _, p := range d.graphs() {
			painted := p.colours(t)
			for _, known := range []map[string]string{colours, resultColours} {
				for name, colour := range known {
					if own, found := painted[name]; found {
						require.Equal(t, colour, own, "%q, %s", p.Title, name)
					}
				}
			}
			paintsAll := func(strategies []string) bool {
				return !slices.ContainsFunc(strategies, func(s string) bool { return painted[s] == "" })
			}
			if p.splitsBy("strategy", "") {
				require.True(t, slices.ContainsFunc(features, paintsAll), "%q leaves strategies to the palette", p.Title)
			}
			if p.splitsBy("result", "cache_re") {
				require.True(t, paintsAll(slices.Collect(maps.Keys(resultColours))), "%q leaves results to the palette", p.Title)
			}
		}
	})
}

func names[S ~string](strategies []S) []string {
	all := make([]string, len(strategies))
	for i, s := range strategies {
		all[i] = string(s)
	}
	return all
}

// splitsBy tells whether the panel has a series for each value of a label, in a query that says that.
func (p panel) splitsBy(label, says string) bool {
	return slices.ContainsFunc(p.Targets, func(asked target) bool {
		return asked.LegendFormat == "{{"+label+"}}" && strings.Contains(asked.Expr, says)
	})
}

// colours returns the colours that the panel gives to series, by name, and to the texts of a table.
func (p panel) colours(t *testing.T) map[string]string {
	t.Helper()
	painted := map[string]string{}
	for _, o := range p.FieldConfig.Overrides {
		for _, property := range o.Properties {
			switch property.ID {
			case "color":
				var colour struct{ FixedColor string }
				require.NoError(t, json.Unmarshal(property.Value, &colour))
				painted[o.Matcher.Options] = colour.FixedColor
			case "mappings":
				var mappings []struct {
					Options map[string]struct{ Color string }
				}
				require.NoError(t, json.Unmarshal(property.Value, &mappings))
				for _, mapping := range mappings {
					for text, option := range mapping.Options {
						painted[text] = option.Color
					}
				}
			}
		}
	}
	return painted
}
