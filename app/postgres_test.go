package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

// The whole service works through a PgBouncer in transaction mode, whether that refuses a session's settings or ignores
// them.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]map[string]string{
		"refuses settings": nil,
		"ignores settings": {
			"ignore_startup_parameters": "statement_timeout,idle_in_transaction_session_timeout,max_parallel_workers_per_gather",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := deploy(t, servicetest.PgBouncer(t, hundredPayments(t), settings), demo)
			require.Equal(t, http.StatusOK, ask(t, http.MethodGet, d.url+"/readyz").status)
			for range 5 {
				for _, strategy := range []string{"n_plus_one", "preload", "lease"} {
					got := ask(t, http.MethodGet, d.url+"/posts/trending?strategy="+strategy)
					require.Equal(t, http.StatusOK, got.status, "%s: %s", strategy, got.body)
				}
			}
			const truth = `{"pending":3,"reconciled":97,"pending_that_agree":0,"reconciled_that_disagree":0}`
			for _, strategy := range []string{"n_plus_one", "batched_reads", "buffered", "single_statement"} {
				require.Equal(t, "done", d.reconciled(t, strategy))
				require.JSONEq(t, truth, string(ask(t, http.MethodGet, d.url+"/payments").body))
				require.Equal(t, http.StatusNoContent, askReconcile(t, http.MethodDelete, d.url+"/reconcile", "").status)
			}
			require.Equal(t, http.StatusAccepted, ask(t, http.MethodPost, d.url+"/payments/1/settled").status)
			const marked = `{"pending":99,"reconciled":1,"pending_that_agree":96,"reconciled_that_disagree":0}`
			require.Eventually(t, func() bool {
				return string(bytes.TrimSpace(ask(t, http.MethodGet, d.url+"/payments").body)) == marked
			}, 20*time.Second, 5*time.Millisecond)
		})
	}
}

// reconciled makes a run and returns how it has ended.
func (d deployment) reconciled(t *testing.T, strategy string) (state string) {
	t.Helper()
	accepted := askReconcile(t, http.MethodPost, d.url+"/reconcile", `{"strategy":"`+strategy+`"}`)
	require.Equal(t, http.StatusAccepted, accepted.status, "%s", accepted.body)
	var job struct{ State string }
	require.Eventually(t, func() bool {
		got := ask(t, http.MethodGet, d.url+accepted.header.Get("Location"))
		require.NoError(t, json.Unmarshal(got.body, &job))
		return job.State != "running"
	}, 30*time.Second, 10*time.Millisecond)
	return job.State
}

// A replica is paused while it marks, behind a PgBouncer. Its transaction does not hold its locks for ever.
func TestPgBouncer_APausedMarker(t *testing.T) {
	t.Parallel()
	direct := hundredPayments(t)
	replica := startReplica(t, "paused", map[string]string{
		"DATABASE_URL": servicetest.PgBouncer(t, direct, nil), "REDIS_URL": servicetest.Redis(t).URL(),
		"OTEL_SDK_DISABLED": "true",
	})
	pool, err := pgxpool.New(t.Context(), direct)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	lock, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = lock.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = lock.Exec(t.Context(), "SELECT FROM payments WHERE id = 70 FOR UPDATE")
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, ask(t, http.MethodPost, replica.url+"/payments/70/settled").status)
	require.Eventually(t, func() bool {
		var waiting int
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting))
		return waiting > 0
	}, 20*time.Second, 10*time.Millisecond)
	replica.Signal(syscall.SIGSTOP)
	defer replica.Signal(syscall.SIGCONT)
	require.NoError(t, lock.Rollback(t.Context()))

	began := time.Now()
	bounded, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = pool.Exec(bounded, "UPDATE payments SET amount_minor = 1 WHERE id = 70")
	require.NoError(t, err)
	t.Logf("the lock was held for %v", time.Since(began).Round(time.Millisecond))
	require.Less(t, time.Since(began), 20*time.Second, "five, and what a busy machine adds")
}

// Behind a pooler `migrate` takes the direct way, and gives the service's role its settings.
func TestMigrate_DirectURL(t *testing.T) {
	t.Parallel()
	direct := servicetest.EmptyPostgres(t)
	var out bytes.Buffer
	p := program{
		getenv: environment(map[string]string{
			"DATABASE_URL": servicetest.PgBouncer(t, direct, nil), "DATABASE_DIRECT_URL": direct,
			"DATABASE_STATEMENT_TIMEOUT": "7s",
		}),
		stdout: &out, stderr: &out,
	}
	require.NoError(t, runMigrate(t.Context(), p, nil))
	require.Contains(t, out.String(), "the sessions of role postgres have their settings")
	conn, err := pgx.Connect(t.Context(), direct)
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	var timeout string
	require.NoError(t, conn.QueryRow(t.Context(), "SHOW statement_timeout").Scan(&timeout))
	require.Equal(t, "7s", timeout)
}

// Postgres fails over without closing connections. Requests fail for no longer than a statement may take.
func TestOpenPostgres_SilentFailover(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(tenPosts(t))
	require.NoError(t, err)
	host := servicetest.NewHost(t, u.Host)
	u.Host = host.Addr()
	pool, err := openPostgres(t.Context(), database{
		URL: u.String(), MaxConns: 4, StatementTimeout: time.Second, AcquireTimeout: time.Second,
	})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	count := func() error {
		var n int
		return pool.QueryRow(t.Context(), "SELECT count(*) FROM posts").Scan(&n)
	}
	require.NoError(t, count())
	require.Eventually(t, func() bool { return pool.Stat().TotalConns() == 4 }, 10*time.Second, 10*time.Millisecond)
	host.FailOver()
	began := time.Now()
	require.ErrorIs(t, count(), context.DeadlineExceeded)
	require.Less(t, time.Since(began), 20*time.Second)
	require.NoError(t, count(), "the other idle connections were replaced")
	host.Cut()
}
