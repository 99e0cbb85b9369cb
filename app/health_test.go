package main

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

// statusOf asks a probe for the replica's state.
func (r *replicaProcess) statusOf(t *testing.T, listener string) (status int, body string) {
	t.Helper()
	got := ask(t, http.MethodGet, listener+"/readyz")
	return got.status, strings.TrimSpace(string(got.body))
}

// Probes are answered on a listener of their own; the front door has the status only, and no ledger.
func TestHealth_Listeners(t *testing.T) {
	t.Parallel()
	r := startReplica(t, "one", map[string]string{
		"DATABASE_URL": tenPosts(t), "REDIS_URL": servicetest.Redis(t).URL(), "OTEL_SDK_DISABLED": "true",
	})
	for _, listener := range []string{r.url, r.admin} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for path, body := range map[string]string{"/healthz": `{"status":"alive"}`, "/readyz": `{"status":"ready"}`} {
				got := ask(t, method, listener+path)
				require.Equal(t, http.StatusOK, got.status)
				if method == http.MethodGet {
					require.JSONEq(t, body, string(got.body))
				}
			}
		}
	}
	require.Equal(t, http.StatusOK, ask(t, http.MethodGet, r.admin+"/ledger").status)
	require.Equal(t, http.StatusNotFound, ask(t, http.MethodGet, r.url+"/ledger").status)
	require.Equal(t, http.StatusNotFound, ask(t, http.MethodGet, r.admin+"/posts/trending").status)
	require.NoError(t, r.healthcheck(t))
}

func (r *replicaProcess) healthcheck(t *testing.T) error {
	t.Helper()
	return run(t.Context(), program{
		getenv: environment(map[string]string{"ADMIN_ADDR": r.admin[len("http://"):]}),
		stdout: io.Discard, stderr: io.Discard,
	}, []string{"healthcheck"})
}

// Postgres goes away, then Redis too, and both come back. Neither is named to a probe.
func TestHealth_StoresGoAway(t *testing.T) {
	t.Parallel()
	postgres, err := servicetest.StartPostgres(t.Context(), servicetest.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = postgres.Stop() })
	proxy := servicetest.NewProxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(postgres.Port)))
	url := "postgres://postgres:hunter2@" + proxy.Addr() + "/postgres?sslmode=disable"
	memory := servicetest.Redis(t)
	require.NoError(t, run(t.Context(), program{
		getenv: environment(map[string]string{"DATABASE_URL": url}), stdout: io.Discard, stderr: io.Discard,
	}, []string{"migrate"}))
	r := startReplica(t, "one", map[string]string{
		"DATABASE_URL": url, "REDIS_URL": memory.URL(), "OTEL_SDK_DISABLED": "true", "REDIS_TIMEOUT": "250ms",
	})
	is := func(status int, state string) {
		t.Helper()
		for _, listener := range []string{r.url, r.admin} {
			require.Eventually(t, func() bool {
				got, body := r.statusOf(t, listener)
				require.NotContains(t, body, "hunter2")
				require.NotContains(t, body, "127.0.0.1")
				require.NotContains(t, body, "postgres")
				return got == status && strings.Contains(body, state)
			}, 30*time.Second, 20*time.Millisecond, state)
		}
	}
	is(http.StatusOK, `"status":"ready"`)
	require.NoError(t, postgres.Stop())
	is(http.StatusOK, `"status":"degraded"`)
	require.NoError(t, r.healthcheck(t))
	require.Equal(t, http.StatusAccepted, ask(t, http.MethodPost, r.url+"/payments/1/settled").status)
	require.NoError(t, memory.Kill())
	is(http.StatusServiceUnavailable, "The replica is unavailable.")
	require.ErrorContains(t, r.healthcheck(t), "503")
	got := ask(t, http.MethodPost, r.url+"/payments/1/settled")
	require.Equal(t, http.StatusServiceUnavailable, got.status)
	require.NotEmpty(t, got.header.Get("Retry-After"))
}

// A replica whose database lacks the schema never becomes ready, and the log says what to do.
func TestHealth_WrongDatabase(t *testing.T) {
	t.Parallel()
	r := startUnready(t, "one", map[string]string{
		"DATABASE_URL": servicetest.EmptyPostgres(t), "REDIS_URL": servicetest.Redis(t).URL(), "OTEL_SDK_DISABLED": "true",
	})
	require.Eventually(t, func() bool { return r.answers() }, 20*time.Second, 10*time.Millisecond)
	status, body := r.statusOf(t, r.url)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, body, "The replica is starting.")
	require.NotContains(t, body, "migrate")
	require.ErrorContains(t, r.healthcheck(t), "503")
	got := ask(t, http.MethodGet, r.url+"/posts/trending")
	require.Equal(t, http.StatusServiceUnavailable, got.status)
	require.NotContains(t, string(got.body), "posts\\\"")
	require.NoError(t, r.stop())
	require.Contains(t, r.stderr.String(), "the schema is at version 0")
	require.Contains(t, r.stderr.String(), "run `app migrate`")
}

// A replica that ends says so before it stops to answer, and goes on answering meanwhile, with the last answer on each
// connection.
func TestShutdown_DrainsFirst(t *testing.T) {
	t.Parallel()
	r := startReplica(t, "one", map[string]string{
		"DATABASE_URL": tenPosts(t), "REDIS_URL": servicetest.Redis(t).URL(), "OTEL_SDK_DISABLED": "true",
		"SHUTDOWN_DELAY": "2s",
	})
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	require.Eventually(t, func() bool {
		status, body := r.statusOf(t, r.admin)
		return status == http.StatusServiceUnavailable && strings.Contains(body, "draining")
	}, 10*time.Second, 5*time.Millisecond)
	c := dialRaw(t, r.url)
	c.send("GET /posts/trending" + host + "\r\n")
	code, _, last := c.answer()
	require.Equal(t, http.StatusOK, code)
	require.True(t, last, "Connection: close")
	require.NoError(t, <-ended)
}

// A replica without a collector works, warns once, and ends in order.
func TestServe_WithoutACollector(t *testing.T) {
	t.Parallel()
	r := startReplica(t, "one", map[string]string{
		"DATABASE_URL": tenPosts(t), "REDIS_URL": servicetest.Redis(t).URL(),
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + freeAddress(t),
	})
	require.Equal(t, http.StatusOK, ask(t, http.MethodGet, r.url+"/posts/trending").status)
	require.NoError(t, r.stop())
	require.Equal(t, 1, strings.Count(r.stderr.String(), "telemetry is being lost"))
	require.NotContains(t, r.stderr.String(), "app: ")
}
