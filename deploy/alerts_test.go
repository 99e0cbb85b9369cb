package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/deploy/prometheus/rules"
)

func allRules(t *testing.T) []rules.Rule {
	t.Helper()
	all, err := rules.All()
	require.NoError(t, err)
	return all
}

func alerts(t *testing.T) []rules.Rule {
	t.Helper()
	var all []rules.Rule
	for _, r := range allRules(t) {
		if r.Alert != "" {
			all = append(all, r)
		}
	}
	require.NotEmpty(t, all)
	return all
}

// promtool runs the tests that there are; this asks for those that are missing. One scenario shows an alert that fires
// and ends, and not only because everything has ended; and some moment is shown that looks like it and is none.
func TestAlertsAreSeenToFireAndToEnd(t *testing.T) {
	fires, ends, silent := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, path := range files(t, "deploy/prometheus/rules_test/*.yml") {
		var suite struct {
			Tests []struct {
				Cases []struct {
					Time     string `yaml:"eval_time"`
					Alert    string `yaml:"alertname"`
					Expected []any  `yaml:"exp_alerts"`
				} `yaml:"alert_rule_test"`
			}
		}
		parse(t, path, &suite)
		for _, test := range suite.Tests {
			fired := map[string]time.Duration{}
			for _, c := range test.Cases {
				if len(c.Expected) > 0 {
					fired[c.Alert] = moment(t, c.Time)
				}
			}
			for _, c := range test.Cases {
				at, firedHere := fired[c.Alert]
				fires[c.Alert] = fires[c.Alert] || firedHere
				quiet := len(c.Expected) == 0
				ends[c.Alert] = ends[c.Alert] || quiet && firedHere && moment(t, c.Time) > at
				silent[c.Alert] = silent[c.Alert] || quiet && (!firedHere || moment(t, c.Time) < at)
			}
		}
	}
	for _, r := range alerts(t) {
		require.True(t, fires[r.Alert], "no test in rules_test shows %s firing", r.Alert)
		require.True(t, ends[r.Alert], "no test in rules_test shows the end of %s", r.Alert)
		require.True(t, silent[r.Alert], "no test in rules_test shows what %s lets pass", r.Alert)
	}
}

// moment reads promtool's `1h30m`.
func moment(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

var (
	section = regexp.MustCompile(`(?m)^### (\w+)\n((?:[^#]|#[^# ])*)`)
	quoted  = regexp.MustCompile(`\*([A-Z][^*]+\?)\*`)
)

// Whoever is called has the panel and the runbook one click away, and the runbook says what to do.
func TestAlertsHaveRunbooks(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "deploy/prometheus/runbooks.md"))
	require.NoError(t, err)
	written := map[string]string{}
	for _, found := range section.FindAllStringSubmatch(string(content), -1) {
		written[found[1]] = found[2]
	}
	for _, r := range alerts(t) {
		require.NotEmpty(t, r.Annotations["summary"], r.Alert)
		require.Regexp(t, `^/d/\w+\?viewPanel=\d+$`, r.Annotations["dashboard"], r.Alert)
		require.Equal(t, "deploy/prometheus/runbooks.md#"+strings.ToLower(r.Alert), r.Annotations["runbook"])
		require.Contains(t, []string{"critical", "warning"}, r.Labels["severity"], r.Alert)
		require.Contains(t, written, r.Alert, "it has no section")
		for _, part := range []string{"**Look", "**Do", "**Ends**"} {
			if part == "**Do" && strings.Contains(written[r.Alert], "**Look and do**") {
				continue
			}
			require.Contains(t, written[r.Alert], part, r.Alert)
		}
		delete(written, r.Alert)
	}
	require.Empty(t, written, "sections of alerts that there are not")

	var titles strings.Builder
	for _, path := range files(t, "dashboards/*.json") {
		dashboard, err := os.ReadFile(filepath.Join(root, path))
		require.NoError(t, err)
		titles.Write(dashboard)
	}
	for _, found := range quoted.FindAllStringSubmatch(string(content), -1) {
		require.Contains(t, titles.String(), `"title": "`+found[1], "a runbook sends people to a panel that there is not")
	}
}
