package main

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"nervous/app/identity"
	"nervous/app/servicetest"
	"nervous/app/servicetest/otlp"
)

// fleet is replicas over one Postgres, with ten posts and a hundred payments, and one Redis. What they export comes
// here.
type fleet struct {
	t        *testing.T
	received *otlp.Receiver
	replicas map[string]*replicaProcess
	// variables are those of every replica.
	variables map[string]string
	// database is the test's own connection.
	database *pgx.Conn
	token    string
}

func startFleet(t *testing.T, variables map[string]string, replicas ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, received: otlp.Receive(t), replicas: map[string]*replicaProcess{}}
	ctx, url := context.WithoutCancel(t.Context()), hundredPayments(t)
	var err error
	f.database, err = pgx.Connect(ctx, url)
	require.NoError(t, err)
	t.Cleanup(func() { f.database.Close(ctx) })
	f.does(`INSERT INTO users (id, name) VALUES (1, 'Ada')`)
	f.does(`INSERT INTO posts (author_id, title) SELECT 1, 'Post ' || n FROM generate_series(1, 10) AS n`)
	f.token, err = identity.New(tokenSecret).Mint(identity.Caller{User: "42", Scopes: []string{"reconcile"}}, time.Hour)
	require.NoError(t, err)
	f.variables = map[string]string{
		"DATABASE_URL": url, "REDIS_URL": servicetest.Redis(t).URL(), "OTEL_EXPORTER_OTLP_ENDPOINT": f.received.URL(),
	}
	maps.Copy(f.variables, variables)
	for _, name := range replicas {
		f.start(name)
	}
	return f
}

// start starts one more replica, or one that has ended.
func (f *fleet) start(name string) {
	f.t.Helper()
	f.replicas[name] = startReplica(f.t, name, f.variables)
}

// does has the database do something.
func (f *fleet) does(sql string) {
	f.t.Helper()
	_, err := f.database.Exec(context.WithoutCancel(f.t.Context()), sql)
	require.NoError(f.t, err)
}

// hold does something in a transaction, which keeps what it has locked until release.
func (f *fleet) hold(sql string) (release func()) {
	f.t.Helper()
	f.does("BEGIN")
	f.does(sql)
	return func() { f.does("ROLLBACK") }
}

// end ends the replicas. Then everything that they had to say has arrived.
func (f *fleet) end() {
	f.t.Helper()
	for _, r := range f.replicas {
		require.NoError(f.t, r.stop())
	}
}

// answer is what a replica answered, and what it says of where that came from.
type answer struct {
	reply
	replica, trace, span, flags string
	result                      string // of the cache
	ended                       time.Time
	// body is as much of it as any of the tests looks at.
	body struct {
		Strategy, State, Replica string
		GeneratedAt              time.Time `json:"generated_at"`
		TraceID                  string    `json:"trace_id"`
		Attempts                 int
	}
}

// ask asks a replica, in any goroutine.
func (f *fleet) ask(replica, method, path, body string, headers ...string) (a answer, err error) {
	url := f.replicas[replica].url + path
	request, err := http.NewRequestWithContext(f.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		return a, err
	}
	request.Header.Set("Authorization", "Bearer "+f.token)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	a.status, a.header = response.StatusCode, response.Header
	if a.reply.body, err = io.ReadAll(response.Body); err != nil {
		return a, err
	}
	a.ended, a.replica = time.Now(), a.header.Get("X-Served-By")
	if fields := strings.Split(a.header.Get("traceresponse"), "-"); len(fields) == 4 {
		a.trace, a.span, a.flags = fields[1], fields[2], fields[3]
	}
	if _, cache, found := strings.Cut(a.header.Get("Server-Timing"), `cache;desc="`); found {
		a.result, _, _ = strings.Cut(cache, `"`)
	}
	if len(a.reply.body) > 0 {
		err = json.Unmarshal(a.reply.body, &a.body)
	}
	return a, err
}

// got asks a replica, which must answer with the status.
func (f *fleet) got(status int, replica, method, path, body string) answer {
	f.t.Helper()
	a, err := f.ask(replica, method, path, body)
	require.NoError(f.t, err)
	require.Equal(f.t, status, a.status, "%s %s: %s", method, path, a.reply.body)
	require.Equal(f.t, replica, a.replica)
	return a
}

// trending asks a replica for the list, by a strategy.
func (f *fleet) trending(replica, strategy string) answer {
	f.t.Helper()
	return f.got(http.StatusOK, replica, http.MethodGet, "/posts/trending?strategy="+strategy, "")
}

// waiting counts the requests that wait for another's fill, by the replica that they wait for, as the replicas last
// said.
func (f *fleet) waiting() map[string]float64 {
	waiting := map[string]float64{}
	for _, p := range f.received.Points("cache.waiters") {
		if p.Value > 0 {
			waiting[p.Attributes["holder"]] += p.Value
		}
	}
	return waiting
}
