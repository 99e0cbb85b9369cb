package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/loadtest"
)

// objectives are what is promised, by name: the one place in which the numbers stand.
func objectives(t *testing.T) map[string]float64 {
	t.Helper()
	promised, err := loadtest.Objectives()
	require.NoError(t, err)
	return promised
}

var inExpression = regexp.MustCompile(`objective\{name="(\w+)"\}`)

// Prometheus cannot read the file, so it has the numbers as series; and nothing compares with one that is not there,
// which would never be true.
func TestRulesPromiseWhatTheObjectivesSay(t *testing.T) {
	promised, recorded := objectives(t), map[string]bool{}
	for _, r := range allRules(t) {
		if r.Record == "objective" {
			name := r.Labels["name"]
			require.Contains(t, promised, name)
			require.Equal(t, "vector("+strconv.FormatFloat(promised[name], 'f', -1, 64)+")", r.Expr, name)
			recorded[name] = true
		}
	}
	used := map[string]bool{}
	var everything strings.Builder
	for _, r := range allRules(t) {
		everything.WriteString(r.Expr + "\n")
	}
	for _, path := range files(t, "dashboards/*.json") {
		content, err := os.ReadFile(filepath.Join(root, path))
		require.NoError(t, err)
		everything.WriteString(strings.ReplaceAll(string(content), `\"`, `"`))
	}
	for _, found := range inExpression.FindAllStringSubmatch(everything.String(), -1) {
		require.True(t, recorded[found[1]], "the rule objective{name=%q} is missing", found[1])
		used[found[1]] = true
	}
	require.Equal(t, recorded, used, "an objective that nothing compares with")
}

var bucket = regexp.MustCompile(`(\w+)_bucket\{[^}]*le="([^"]+)"`)

// Where a share is counted by a bucket, the bucket ends at the objective.
func TestBucketsEndAtTheObjectives(t *testing.T) {
	promised := objectives(t)
	ends := map[string]float64{
		"http_server_request_duration_seconds": promised["trending_latency_bound"],
		"cache_value_age_seconds":              promised["trending_age"],
	}
	seen := map[string]bool{}
	for _, r := range allRules(t) {
		for _, found := range bucket.FindAllStringSubmatch(r.Expr, -1) {
			end, err := strconv.ParseFloat(found[2], 64)
			require.NoError(t, err)
			require.Contains(t, ends, found[1], r.Record)
			require.InDelta(t, ends[found[1]], end, 0, r.Record)
			seen[found[1]] = true
		}
	}
	require.Len(t, seen, len(ends))
}

var promise = regexp.MustCompile(`promised\('(\w+)'\)`)

// A load script that asks for what nobody promises does not start; a promise that no script, rule or dashboard asks for
// is none.
func TestEveryObjectiveIsHeldToSomewhere(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "loadtest/lib/slo.js"))
	require.NoError(t, err)
	held := map[string]bool{}
	for _, found := range promise.FindAllStringSubmatch(string(content), -1) {
		held[found[1]] = true
	}
	require.NotEmpty(t, held)
	for _, r := range allRules(t) {
		if r.Record == "objective" {
			held[r.Labels["name"]] = true
		}
	}
	for name := range objectives(t) {
		require.True(t, held[name], "nothing holds the deployment to %s", name)
	}
}
