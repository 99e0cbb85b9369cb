package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/identity"
	"nervous/app/servicetest"
)

// deployment is one real replica over real stores.
type deployment struct {
	url   string
	redis *servicetest.RedisServer
	// stop asks for a graceful end and returns what serve returned.
	stop func() error
}

func deploy(t *testing.T, databaseURL string, variables map[string]string) deployment {
	t.Helper()
	server := servicetest.Redis(t)
	all := map[string]string{
		"DATABASE_URL": databaseURL, "REDIS_URL": server.URL(), "REPLICA_ID": "test-1", "TOKEN_SECRET": tokenSecret,
		// A machine that is busy with other tests is no fault of Redis's.
		"REDIS_TIMEOUT": "5s", "RATELIMIT_BUDGET": "5s", "SHUTDOWN_DELAY": "0s",
	}
	for k, v := range variables {
		all[k] = v
	}
	c, err := loadConfig(environment(all))
	require.NoError(t, err)
	s, err := build(t.Context(), c)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)

	ctx, end := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.serve(ctx, listener, c) }()
	stopped := false
	d := deployment{"http://" + listener.Addr().String(), server, func() error {
		stopped = true
		end()
		return <-ended
	}}
	t.Cleanup(func() {
		if !stopped {
			require.NoError(t, d.stop())
		}
		require.NoError(t, s.close())
	})
	return d
}

type reply struct {
	status int
	header http.Header
	body   []byte
}

func ask(t *testing.T, method, url string) reply {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	return send(t, request)
}

// askReconcile asks with a token that has the scope reconcile.
func askReconcile(t *testing.T, method, url, body string) reply {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Authorization", bearer(t))
	return send(t, request)
}

func send(t *testing.T, request *http.Request) reply {
	t.Helper()
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return reply{answer.StatusCode, answer.Header, body}
}

func tenPosts(t testing.TB) (databaseURL string) {
	t.Helper()
	databaseURL = servicetest.Postgres(t)
	conn, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, sql := range []string{
		`INSERT INTO users (id, name) VALUES (1, 'Ada')`,
		`INSERT INTO posts (author_id, title) SELECT 1, 'Post ' || n FROM generate_series(1, 10) AS n`,
	} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	return databaseURL
}

// A test that waits for something asks often.
var demo = map[string]string{"DEMO": "true", "RATELIMIT_LIMIT": "10000"}

var cost = regexp.MustCompile(`^limit;desc="redis", cache;desc="(\w+)";dur=[\d.]+, ` +
	`redis;desc="(\d+) round-trips";dur=[\d.]+, db;desc="(\d+) round-trips";dur=[\d.]+$`)

func TestEveryAnswerSaysWhatItCost(t *testing.T) {
	t.Parallel()
	d := deploy(t, tenPosts(t), demo)
	for _, step := range []struct {
		strategy, result, redis, postgres, cacheStatus string
	}{
		// The rate limit's check.
		{"n_plus_one", "bypass", "1", "11", "nervous; fwd=bypass"},
		{"preload", "bypass", "1", "2", "nervous; fwd=bypass"},
		{"ttl", "miss", "3", "2", "nervous; fwd=miss; stored; ttl="},
		{"ttl", "hit", "2", "0", "nervous; hit; ttl="},
		// It, GET, LEASE, COMMIT.
		{"lease", "miss", "4", "2", "nervous; fwd=miss; stored; ttl="},
		{"lease", "hit", "2", "0", "nervous; hit; ttl="},
	} {
		got := ask(t, http.MethodGet, d.url+"/posts/trending?strategy="+step.strategy)
		require.Equal(t, http.StatusOK, got.status, "%s", got.body)
		timing := got.header.Get("Server-Timing")
		require.Regexp(t, cost, timing)
		require.Equal(t, []string{step.result, step.redis, step.postgres}, cost.FindStringSubmatch(timing)[1:], step.strategy)
		require.Contains(t, got.header.Get("Cache-Status"), step.cacheStatus)
		require.Equal(t, "test-1", got.header.Get("X-Served-By"))
		require.Equal(t, step.result == "hit" || step.result == "miss", got.header.Get("Age") != "")

		var body struct {
			Strategy, Window string
			Posts            []struct{ Author struct{ Name string } }
		}
		require.NoError(t, json.Unmarshal(got.body, &body))
		require.Equal(t, step.strategy, body.Strategy)
		require.Equal(t, "24h", body.Window)
		require.Len(t, body.Posts, 10)
		require.Equal(t, "Ada", body.Posts[9].Author.Name)
	}
	require.Equal(t, http.StatusNoContent, ask(t, http.MethodDelete, d.url+"/posts/trending").status)
	again := ask(t, http.MethodGet, d.url+"/posts/trending")
	require.Contains(t, again.header.Get("Cache-Status"), "fwd=miss; stored")
}

// What a run costs is what its strategy says, in a replica as it is deployed.
func TestARunInAReplica(t *testing.T) {
	t.Parallel()
	d := deploy(t, hundredPayments(t), demo)
	for strategy, trips := range map[string]int{
		"n_plus_one": 2 + 100 + 97, "batched_reads": 2 + 97, "buffered": 2 + 6, "single_statement": 2,
	} {
		accepted := askReconcile(t, http.MethodPost, d.url+"/reconcile", `{"strategy":"`+strategy+`"}`)
		require.Equal(t, http.StatusAccepted, accepted.status)

		var job struct {
			State, Replica string
			RoundTrips     struct{ Postgres int } `json:"round_trips"`
		}
		require.Eventually(t, func() bool {
			got := ask(t, http.MethodGet, d.url+accepted.header.Get("Location"))
			require.NoError(t, json.Unmarshal(got.body, &job))
			return job.State == "done"
		}, 20*time.Second, 5*time.Millisecond)
		require.Equal(t, "test-1", job.Replica)
		if strategy == "buffered" { // one less where the connection has prepared the record before
			require.LessOrEqual(t, job.RoundTrips.Postgres, trips)
		} else {
			require.Equal(t, trips, job.RoundTrips.Postgres, strategy)
		}
		const truth = `{"pending":3,"reconciled":97,"pending_that_agree":0,"reconciled_that_disagree":0}`
		require.JSONEq(t, truth, string(ask(t, http.MethodGet, d.url+"/payments").body))
		require.Equal(t, http.StatusNoContent, askReconcile(t, http.MethodDelete, d.url+"/reconcile", "").status)
	}

	event := ask(t, http.MethodPost, d.url+"/payments/1/settled")
	require.Equal(t, http.StatusAccepted, event.status)
	require.JSONEq(t, `{"payment":1,"path":"buffered"}`, string(event.body))
	// The rate limit's check, and the event.
	require.Regexp(t, `redis;desc="2 round-trips";dur=[\d.]+, db;desc="0 round-trips"`, event.header.Get("Server-Timing"))
	const marked = `{"pending":99,"reconciled":1,"pending_that_agree":96,"reconciled_that_disagree":0}`
	require.Eventually(t, func() bool {
		return string(bytes.TrimSpace(ask(t, http.MethodGet, d.url+"/payments").body)) == marked
	}, 20*time.Second, 5*time.Millisecond)
}

// The limit is the configured one, and counts whom the proxy names.
func TestTheLimitOfAReplica(t *testing.T) {
	t.Parallel()
	d := deploy(t, tenPosts(t), map[string]string{
		"RATELIMIT_LIMIT": "2", "RATELIMIT_WINDOW": "1h", "TRUSTED_PROXIES": "127.0.0.0/8",
	})
	from := func(address string) reply {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url+"/posts/trending", nil)
		require.NoError(t, err)
		request.Header.Set("X-Forwarded-For", address)
		return send(t, request)
	}
	for left := 1; left >= 0; left-- {
		got := from("192.0.2.1")
		require.Equal(t, http.StatusOK, got.status, "%s", got.body)
		require.Equal(t, `"overall";q=2;w=3600`, got.header.Get("RateLimit-Policy"))
		require.Regexp(t, fmt.Sprintf(`^"overall";r=%d;t=3[56]\d\d$`, left), got.header.Get("RateLimit"))
	}
	denied := from("192.0.2.1")
	require.Equal(t, http.StatusTooManyRequests, denied.status)
	require.Regexp(t, `^3[56]\d\d$`, denied.header.Get("Retry-After"))
	require.Contains(t, denied.header.Get("Server-Timing"), `db;desc="0 round-trips"`)
	require.Equal(t, http.StatusOK, from("192.0.2.2").status, "somebody else")
	require.Equal(t, http.StatusOK, ask(t, http.MethodGet, d.url+"/readyz").status, "a probe is nobody")
}

func TestErrorsAreProblems(t *testing.T) {
	t.Parallel()
	d := deploy(t, tenPosts(t), demo)
	strict := deploy(t, tenPosts(t), nil)
	for _, c := range []struct {
		method, url string
		status      int
		field       string
	}{
		{http.MethodGet, d.url + "/posts/trending?strategy=magic", http.StatusBadRequest, "strategy"},
		{http.MethodGet, strict.url + "/posts/trending?strategy=n_plus_one", http.StatusForbidden, "strategy"},
		{http.MethodDelete, strict.url + "/posts/trending", http.StatusMethodNotAllowed, ""},
		{http.MethodPost, d.url + "/posts/trending", http.StatusMethodNotAllowed, ""},
		{http.MethodGet, d.url + "/nowhere", http.StatusNotFound, ""},
	} {
		got := ask(t, c.method, c.url)
		require.Equal(t, c.status, got.status, c.url)
		require.Equal(t, "application/problem+json", got.header.Get("Content-Type"), c.url)
		var problem struct {
			Status       int
			Title, Field string
		}
		require.NoError(t, json.Unmarshal(got.body, &problem))
		require.Equal(t, c.status, problem.Status)
		require.NotEmpty(t, problem.Title)
		require.Equal(t, c.field, problem.Field)
	}
	require.Equal(t, http.StatusOK, ask(t, http.MethodGet, strict.url+"/posts/trending?strategy=lease").status,
		"naming the strategy that is configured is no override")
}

func TestAReplicaIsReadyOnlyWithItsSchema(t *testing.T) {
	t.Parallel()
	d := deploy(t, servicetest.EmptyPostgres(t), nil)
	require.Equal(t, http.StatusOK, ask(t, http.MethodGet, d.url+"/healthz").status)
	got := ask(t, http.MethodGet, d.url+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, got.status)
	require.Equal(t, "1", got.header.Get("Retry-After"))
	require.NotContains(t, string(got.body), "migrate", "it says nothing of the inside")
}

func TestWithoutRedisItIsSlowerAndNotDown(t *testing.T) {
	t.Parallel()
	d := deploy(t, tenPosts(t), nil)
	require.NoError(t, d.redis.Kill())
	require.Equal(t, http.StatusOK, ask(t, http.MethodGet, d.url+"/readyz").status)
	got := ask(t, http.MethodGet, d.url+"/posts/trending")
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, "nervous; fwd=bypass", got.header.Get("Cache-Status"))
}

func TestAGracefulEndFinishesWhatIsInFlight(t *testing.T) {
	t.Parallel()
	databaseURL := tenPosts(t)
	d := deploy(t, databaseURL, demo)
	conn, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	lock, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = lock.Exec(t.Context(), "LOCK TABLE views IN ACCESS EXCLUSIVE MODE") // requests now wait until we let go
	require.NoError(t, err)

	inFlight := make(chan int, 1)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url+"/posts/trending?strategy=lease", nil)
	require.NoError(t, err)
	go func() {
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			inFlight <- 0
			return
		}
		answer.Body.Close()
		inFlight <- answer.StatusCode
	}()
	// Not by locks that wait: a connection of the pool that prepares its statements waits for this lock too.
	memory := redis.NewClient(d.redis.Options())
	defer memory.Close()
	require.Eventually(t, func() bool {
		leases, err := memory.Keys(t.Context(), "*:lease:trending:*").Result()
		return err == nil && len(leases) == 1
	}, 20*time.Second, 5*time.Millisecond)

	ended := make(chan error, 1)
	go func() { ended <- d.stop() }()
	require.Eventually(t, func() bool { // it accepts no more
		conn, err := net.DialTimeout("tcp", d.url[len("http://"):], time.Second)
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, 20*time.Second, 5*time.Millisecond)
	require.NoError(t, lock.Rollback(t.Context()))
	require.Equal(t, http.StatusOK, <-inFlight)
	require.NoError(t, <-ended)
}

// A replica that stands still while it marks payments must not hold up the others for as long as it pleases.
func TestATransactionThatStandsStillIsEnded(t *testing.T) {
	t.Parallel()
	pool, err := openPostgres(t.Context(), database{
		URL: servicetest.Postgres(t), MaxConns: 1, StatementTimeout: 30 * time.Second,
	})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	//nolint:staticcheck // a ping would keep the transaction from standing still
	closed := func() bool { return tx.Conn().PgConn().CheckConn() != nil }
	require.Eventually(t, closed, 20*time.Second, 50*time.Millisecond)
	_, err = tx.Exec(t.Context(), "SELECT 1")
	require.Error(t, err)
	require.Error(t, tx.Rollback(t.Context()))
	require.NoError(t, pool.Ping(t.Context()), "there is another connection for who comes next")
}

func TestWrongUseIsSaid(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	p := program{getenv: environment(nil), stdout: io.Discard, stderr: &said}
	require.ErrorIs(t, run(t.Context(), p, []string{"dance"}), errUsage)
	require.Contains(t, said.String(), `there is no command "dance"`)
	require.Contains(t, said.String(), "healthcheck")
	require.ErrorContains(t, run(t.Context(), p, []string{"serve"}), "3 fault(s)")
}

// bearer is what a caller with the scope reconcile shows.
func bearer(t *testing.T) string {
	t.Helper()
	token, err := identity.New(tokenSecret).Mint(identity.Caller{User: "42", Scopes: []string{"reconcile"}}, time.Hour)
	require.NoError(t, err)
	return "Bearer " + token
}
