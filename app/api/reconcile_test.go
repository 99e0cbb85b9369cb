package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// work keeps Run going until the test ends.
func (s surface) work(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.reconciler.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
}

// job is what callers rely on.
type job struct {
	ID              uuid.UUID
	Strategy, State string
	Total, Examined int
	Progress        float64
	Rate            float64  `json:"rate_per_second"`
	ETA             *float64 `json:"eta_seconds"`
	Seconds         float64
	Counts          struct{ Reconciled, Amount, Currency, Missing int }
	RoundTrips      struct{ Postgres, Redis, Bookkeeping int } `json:"round_trips"`
	Degraded        int
	Attempts        int
	Replica         string
	TraceID         string `json:"trace_id"`
	Error           string
	CreatedAt       time.Time  `json:"created_at"`
	FinishedAt      *time.Time `json:"finished_at"`
}

func (a answer) job(t *testing.T) (j job) {
	t.Helper()
	a.decode(t, &j)
	return j
}

func TestRefusalsOfRunsAndEvents(t *testing.T) {
	t.Parallel()
	demo, strict := newSurface(t, true), newSurface(t, false)
	unknown := "/reconcile/" + uuid.NewString()
	huge := `{"limit": 1, "strategy": "` + strings.Repeat("a", 5000) + `"}`
	for _, c := range []struct {
		s                   surface
		scope               string
		method, path, body  string
		status              int
		field, title, allow string
	}{
		{demo, "", http.MethodPost, "/reconcile", ``, 401, "authorization", "Token required", ""},
		{demo, "", http.MethodPost, "/reconcile", `{"strategy":"magic"}`, 401, "authorization", "Token required", ""},
		{demo, "", http.MethodDelete, unknown, ``, 401, "authorization", "Token required", ""},
		{demo, "reset", http.MethodPost, "/reconcile", ``, 403, "authorization", "Token does not allow this", ""},
		{demo, "reset", http.MethodDelete, unknown, ``, 403, "authorization", "Token does not allow this", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", `{"strategy":"magic"}`, 400, "strategy", "Unknown strategy", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", `{"strategy":7}`, 400, "strategy", "Wrong type", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", `null`, 400, "body", "Body is not understood", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", `{"limit":0}`, 400, "limit", "Limit out of range", ""},
		{demo, "", http.MethodDelete, "/reconcile", ``, 401, "authorization", "Token required", ""},
		{demo, "events", http.MethodDelete, "/reconcile", ``, 403, "authorization", "Token does not allow this", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", `{"limit":-1}`, 400, "limit", "Limit out of range", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", `{"limit":2147483648}`, 400, "limit", "Limit out of range", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", `{"limit":"all"}`, 400, "limit", "Wrong type", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", `{"limit":1.5}`, 400, "limit", "Wrong type", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", `{"limit":1e99}`, 400, "limit", "Wrong type", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", `{"limits":1}`, 400, "body", "Body is not understood", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", `[]`, 400, "body", "Body is not understood", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", `{"limit":1`, 400, "body", "Body is not understood", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", `{} {}`, 400, "body", "Body is not understood", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", `{}}`, 400, "body", "Body is not understood", ""},
		{demo, "reconcile", http.MethodPost, "/reconcile", huge, 413, "body", "Body too large", ""},
		{demo, "", http.MethodGet, unknown, ``, 404, "id", "No such run", ""},
		{demo, "", http.MethodGet, "/reconcile/1", ``, 404, "id", "No such run", ""},
		{demo, "reconcile", http.MethodDelete, unknown, ``, 404, "id", "No such run", ""},
		{demo, "reconcile", http.MethodDelete, "/reconcile/1", ``, 404, "id", "No such run", ""},
		{demo, "", http.MethodPost, "/payments/0/settled", ``, 400, "id", "Not a payment's id", ""},
		{demo, "", http.MethodPost, "/payments/-1/settled", ``, 400, "id", "Not a payment's id", ""},
		{demo, "", http.MethodPost, "/payments/one/settled", ``, 400, "id", "Not a payment's id", ""},
		{demo, "", http.MethodPost, "/payments/9223372036854775808/settled", ``, 400, "id", "Not a payment's id", ""},
		{demo, "", http.MethodGet, "/payments/1/settled", ``, 405, "", "Method Not Allowed", "POST"},
		{strict, "reconcile", http.MethodPost, "/reconcile", `{"strategy":"n_plus_one"}`, 403, "strategy", "", ""},
		{strict, "reconcile", http.MethodDelete, "/reconcile", ``, 405, "", "Method Not Allowed", "POST"},
		{strict, "reconcile", http.MethodGet, "/payments", ``, 404, "", "Not Found", ""},
	} {
		name := c.method + " " + c.path + " " + c.body[:min(30, len(c.body))] + " as " + c.scope
		got := c.s.ask(t, c.method, c.path, c.body, c.scope)
		require.Equal(t, c.status, got.StatusCode, "%s: %s", name, got.body)
		require.Equal(t, "application/problem+json", got.Header.Get("Content-Type"), name)
		var p problem
		got.decode(t, &p)
		require.Equal(t, c.status, p.Status, name)
		require.Equal(t, c.field, p.Field, name)
		if c.title != "" {
			require.Equal(t, c.title, p.Title, name)
		}
		require.NotContains(t, p.Detail, "aaaa", "what was sent is not sent back at length")
		require.Equal(t, c.status == 401 || c.field == "authorization", got.Header.Get("WWW-Authenticate") != "", name)
		require.Contains(t, got.Header.Get("Allow"), c.allow, name)
	}
	for _, s := range []surface{demo, strict} {
		var runs int
		require.NoError(t, s.pool.QueryRow(t.Context(), "SELECT count(*) FROM reconcile_jobs").Scan(&runs))
		require.Zero(t, runs, "nothing was begun")
	}
}

// The life of a run over HTTP: begun, in the way of others, cancelled; and another, to its end.
func TestARunOverHTTP(t *testing.T) {
	t.Parallel()
	s := newSurface(t, true)
	accepted := s.ask(t, http.MethodPost, "/reconcile", `{"strategy":"single_statement","limit":6}`)
	require.Equal(t, http.StatusAccepted, accepted.StatusCode, "%s", accepted.body)
	first := accepted.job(t)
	location := "/reconcile/" + first.ID.String()
	require.Equal(t, location, accepted.Header.Get("Location"))
	require.Equal(t, job{
		ID: first.ID, Strategy: "single_statement", State: "running", Total: 6, CreatedAt: first.CreatedAt,
	}, first, "nobody works on it yet")
	require.Contains(t, string(accepted.body), `"eta_seconds":null`)
	require.NotContains(t, string(accepted.body), "finished_at")
	require.NotContains(t, string(accepted.body), `"error"`)

	shown := s.ask(t, http.MethodGet, location, "", "")
	require.Equal(t, http.StatusOK, shown.StatusCode)
	require.Equal(t, first, shown.job(t))

	for _, method := range []string{http.MethodPost, http.MethodDelete} {
		second := s.ask(t, method, "/reconcile", "")
		require.Equal(t, http.StatusConflict, second.StatusCode, "%s", second.body)
		require.Equal(t, location, second.Header.Get("Location"))
		require.Contains(t, string(second.body), location)
	}

	cancelling := s.ask(t, http.MethodDelete, location, "")
	require.Equal(t, http.StatusAccepted, cancelling.StatusCode)
	require.Equal(t, "cancelling", cancelling.job(t).State)
	s.work(t)
	ended := s.over(t, location)
	require.Equal(t, "cancelled", ended.State)
	require.NotNil(t, ended.FinishedAt)
	again := s.ask(t, http.MethodDelete, location, "")
	require.Equal(t, http.StatusOK, again.StatusCode, "it is over")
	require.Equal(t, ended, again.job(t))
	require.JSONEq(t, `{"pending":10,"reconciled":0,"pending_that_agree":7,"reconciled_that_disagree":0}`,
		string(s.ask(t, http.MethodGet, "/payments", "", "").body))

	next := s.ask(t, http.MethodPost, "/reconcile", "{}")
	require.Equal(t, http.StatusAccepted, next.StatusCode)
	done := s.over(t, next.Header.Get("Location"))
	require.Equal(t, "done", done.State, done.Error)
	require.Equal(t, "buffered", done.Strategy, "the default")
	require.Equal(t, 10, done.Total)
	require.Equal(t, 10, done.Examined)
	require.InDelta(t, 1, done.Progress, 0)
	require.Equal(t, struct{ Reconciled, Amount, Currency, Missing int }{7, 1, 1, 1}, done.Counts)
	require.Equal(t, 1, done.Attempts)
	require.Equal(t, "test-1", done.Replica)
	require.Nil(t, done.ETA)
	require.Positive(t, done.Rate)
	require.Positive(t, done.Seconds)
	const truth = `{"pending":3,"reconciled":7,"pending_that_agree":0,"reconciled_that_disagree":0}`
	require.JSONEq(t, truth, string(s.ask(t, http.MethodGet, "/payments", "", "").body))

	reset := s.ask(t, http.MethodDelete, "/reconcile", "")
	require.Equal(t, http.StatusNoContent, reset.StatusCode)
	require.Empty(t, reset.body)
	require.JSONEq(t, `{"pending":10,"reconciled":0,"pending_that_agree":7,"reconciled_that_disagree":0}`,
		string(s.ask(t, http.MethodGet, "/payments", "", "").body))
}

// over returns the run once it is.
func (s surface) over(t *testing.T, location string) (j job) {
	t.Helper()
	require.Eventually(t, func() bool {
		j = s.ask(t, http.MethodGet, location, "", "").job(t)
		return j.FinishedAt != nil
	}, 20*time.Second, 5*time.Millisecond)
	return j
}

func TestNamingTheConfiguredStrategyIsNoOverride(t *testing.T) {
	t.Parallel()
	s := newSurface(t, false)
	got := s.ask(t, http.MethodPost, "/reconcile", `{"strategy":"buffered"}`)
	require.Equal(t, http.StatusAccepted, got.StatusCode, "%s", got.body)
}

// An event is taken by Redis, else by Postgres, else not at all: then the caller is told when to come again.
func TestEventsOverHTTP(t *testing.T) {
	t.Parallel()
	s := newSurface(t, false)
	got := s.ask(t, http.MethodPost, "/payments/1/settled", "whatever a provider sends along", "")
	require.Equal(t, http.StatusAccepted, got.StatusCode)
	require.JSONEq(t, `{"payment":1,"path":"buffered"}`, string(got.body))
	require.Contains(t, got.Header.Get("Server-Timing"), `db;desc="0 round-trips"`)

	require.NoError(t, s.redis.Kill())
	got = s.ask(t, http.MethodPost, "/payments/3/settled", "", "")
	require.Equal(t, http.StatusAccepted, got.StatusCode, "%s", got.body)
	require.JSONEq(t, `{"payment":3,"path":"direct"}`, string(got.body))

	s.lockPayments(t)
	got = s.ask(t, http.MethodPost, "/payments/4/settled", "", "")
	require.Equal(t, http.StatusServiceUnavailable, got.StatusCode, "%s", got.body)
	require.Equal(t, "1", got.Header.Get("Retry-After"))
	var p problem
	got.decode(t, &p)
	require.Equal(t, "Event not taken", p.Title)
	require.NotContains(t, string(got.body), s.redis.Addr(), "where our stores are is nobody's business")
}

func TestARequestThatTakesTooLong(t *testing.T) {
	t.Parallel()
	s := newSurface(t, true)
	s.lockPayments(t)
	got := s.ask(t, http.MethodGet, "/payments", "", "")
	require.Equal(t, http.StatusServiceUnavailable, got.StatusCode, "%s", got.body)
	require.Equal(t, "2", got.Header.Get("Retry-After"))
	var p problem
	got.decode(t, &p)
	require.Equal(t, "Timed out", p.Title)
}

// lockPayments keeps everybody from the payments until the test ends.
func (s surface) lockPayments(t *testing.T) {
	t.Helper()
	lock, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = lock.Rollback(context.WithoutCancel(t.Context())) })
	_, err = lock.Exec(t.Context(), "LOCK TABLE payments IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)
}

// What a store has said goes into the log; a caller is told that the run has failed, and where the reason is.
func TestShow_FailedRun(t *testing.T) {
	t.Parallel()
	s := newSurface(t, true)
	var run struct{ ID, State, Error string }
	started := s.ask(t, http.MethodPost, "/reconcile", "")
	require.Equal(t, http.StatusAccepted, started.StatusCode)
	_, err := s.pool.Exec(t.Context(), `UPDATE reconcile_jobs SET state = 'failed', finished_at = now(),
		error = 'dial tcp 10.1.2.3:5432: password authentication failed for user "clerk" (SQLSTATE 28P01)'`)
	require.NoError(t, err)
	got := s.ask(t, http.MethodGet, started.Header.Get("Location"), "")
	require.NoError(t, json.Unmarshal(got.body, &run))
	require.Equal(t, "failed", run.State)
	require.Equal(t, "The run has failed. The trace and the replica's log say why.", run.Error)
	for _, inside := range []string{"10.1.2.3", "clerk", "SQLSTATE"} {
		require.NotContains(t, string(got.body), inside)
	}
}
