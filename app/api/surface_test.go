package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/api"
	"nervous/app/identity"
	"nervous/app/ratelimit"
	"nervous/app/reconcile"
	"nervous/app/servicetest"
	"nervous/app/telemetry"
	"nervous/app/trending"
)

// surface is the whole HTTP surface over real stores. Nobody works on runs until work is called.
type surface struct {
	handler    http.Handler
	url        string
	demo       bool
	tokens     identity.Tokens
	pool       *pgxpool.Pool
	redis      *servicetest.RedisServer
	reconciler *reconcile.Reconciler
}

// newSurface has ten payments: one a cent short, one in another currency, one without a settlement. Its limit is more
// than any test asks for, unless a change says otherwise.
func newSurface(t testing.TB, demo bool, changes ...func(*api.Dependencies, redis.UniversalClient)) surface {
	t.Helper()
	server := servicetest.Redis(t)
	config, err := pgxpool.ParseConfig(servicetest.Postgres(t))
	require.NoError(t, err)
	require.NoError(t, telemetry.Postgres(config)) // it counts the round-trips
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	for _, sql := range []string{
		`INSERT INTO users (id, name) VALUES (1, 'Ada')`, `INSERT INTO posts (author_id, title) VALUES (1, 'A post')`,
		`INSERT INTO payments (id, reference, amount_minor, currency)
		SELECT n, n::text, 100, 'EUR' FROM generate_series(1, 10) n`,
		`INSERT INTO settlements (reference, amount_minor, currency)
		SELECT n::text, 100 - (n = 2)::int, CASE n WHEN 5 THEN 'CHF' ELSE 'EUR' END
		FROM generate_series(1, 10) n WHERE n <> 8`,
	} {
		_, err := pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	options := server.Options()
	options.OnConnect = ratelimit.LoadScripts
	rdb := redis.NewClient(options)
	t.Cleanup(func() { _ = rdb.Close() })
	require.NoError(t, telemetry.Redis(rdb))
	require.NoError(t, rdb.Ping(t.Context()).Err()) // to connect is no part of any request
	s := surface{
		demo: demo, tokens: identity.New("a secret of the tests, long enough"), pool: pool, redis: server,
		reconciler: reconcile.New(pool, rdb, reconcile.Options{
			Replica: "test-1", FlushAge: 20 * time.Millisecond, DirectWait: 200 * time.Millisecond,
		}),
	}
	d := api.Dependencies{
		Trending: trending.New(pool, rdb, trending.Options{}), Reconcile: s.reconciler, Tokens: s.tokens,
		// A machine that is busy with other tests is no fault of Redis's.
		Limiter: ratelimit.New(rdb, ratelimit.Options{Replica: "test-1", Budget: 5 * time.Second}),
		Overall: policy("overall", 100_000), DefaultStrategy: trending.Lease, ReconcileStrategy: reconcile.Buffered,
		Demo: demo, Health: func() api.Health { return api.Ready }, Replica: "test-1",
		RequestTimeout: 5 * time.Second,
	}
	for _, change := range changes {
		change(&d, rdb)
	}
	s.handler, err = api.New(d)
	require.NoError(t, err)
	h := httptest.NewServer(asDescribed(t, s.handler))
	t.Cleanup(h.Close)
	s.url = h.URL
	return s
}

// policy has a window that no test outlives.
func policy(name string, limit int64) ratelimit.Policy {
	return ratelimit.Policy{
		Name: name, Limit: limit, Window: time.Hour, Strategy: ratelimit.Exact, Fallback: ratelimit.Local,
	}
}

type answer struct {
	*http.Response
	body []byte
}

// ask asks as somebody who may reconcile, unless scope says otherwise.
func (s surface) ask(t testing.TB, method, path, body string, scope ...string) answer {
	t.Helper()
	if scope == nil {
		scope = []string{"reconcile"}
	}
	header := http.Header{}
	if scope[0] != "" {
		header.Set("Authorization", s.bearer(t, "42", scope...))
	}
	return s.send(t, method, path, body, header)
}

// bearer is what the user shows.
func (s surface) bearer(t testing.TB, user string, scope ...string) string {
	t.Helper()
	token, err := s.tokens.Mint(identity.Caller{User: user, Scopes: scope}, time.Hour)
	require.NoError(t, err)
	return "Bearer " + token
}

func (s surface) send(t testing.TB, method, path, body string, header http.Header) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	require.NoError(t, err)
	request.Header = header
	got, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer got.Body.Close()
	read, err := io.ReadAll(got.Body)
	require.NoError(t, err)
	return answer{got, read}
}

func (a answer) decode(t testing.TB, into any) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(a.body))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(into), "%s", a.body)
}

type problem struct {
	Type             string
	Status           int
	Title, Detail    string
	Field            string
	ViolatedPolicies []string `json:"violated-policies"`
	TraceID          string   `json:"trace_id"`
}
