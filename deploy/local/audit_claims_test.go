package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/app/audit"
)

// asTraced is what an audit finds when all is traced.
func asTraced() audited {
	return audited{atSpike: spans{made: 50_000}, report: &audit.Report{
		Redis: []audit.Row{
			{Operation: "EVALSHA", Spans: 7, Server: 7}, {Operation: "GET", Spans: 5, Server: 9, InScripts: 4},
		},
		Postgres: []audit.Row{{Operation: "TopPosts", Spans: 3, Server: 3}},
	}}
}

func TestAClaimOfTheAuditBreaksWhereItShould(t *testing.T) {
	t.Parallel()
	for id, change := range map[string]func(*audited){
		"audit.redis_calls_traced (one missing)":  func(a *audited) { a.report.Redis[1].Server++ },
		"audit.redis_calls_traced (one too many)": func(a *audited) { a.report.Redis[0].Spans++ },
		"audit.redis_calls_traced (nothing)":      func(a *audited) { a.report.Redis = nil },
		"audit.db_calls_traced (one missing)":     func(a *audited) { a.report.Postgres[0].Spans-- },
		"audit.spans_dropped (in the audit)":      func(a *audited) { a.report.SpansLost = 1 },
		"audit.spans_dropped (in the spike)":      func(a *audited) { a.atSpike.lost = 1 },
		"audit.spans_dropped (no spike)":          func(a *audited) { a.atSpike = spans{} },
	} {
		m := measured(t, asPromised)
		change(&m.audited)
		want, _, _ := strings.Cut(id, " ")
		require.Equal(t, []string{want}, broken(judge(m)), id)
	}
	m := measured(t, asPromised)
	require.Contains(t, claimsTable(judge(m)), "of those that Redis counted, 12 of 12")
	m.audited.report = nil
	require.Equal(t, []string{
		"audit.redis_calls_traced", "audit.db_calls_traced", "audit.spans_dropped",
	}, broken(judge(m)))
}

// Spans that are on their way are not lost; those that never get there are.
func TestSpansAreCountedOnceTheyHadTimeToLeave(t *testing.T) {
	t.Parallel()
	told := []string{`{"spans":{"ended":9,"exported":4}}`, `{"spans":{"ended":10,"exported":10}}`}
	replica := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(told[0]))
		told = told[1:]
	}))
	defer replica.Close()
	counted, err := countSpans(t.Context(), replica.URL)
	require.NoError(t, err)
	require.Equal(t, spans{made: 10}, counted)
}
