package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

// with adds parameters to a connection string.
func with(t *testing.T, databaseURL string, parameters ...string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	query := u.Query()
	for i := 0; i < len(parameters); i += 2 {
		query.Set(parameters[i], parameters[i+1])
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// everyCommand runs each command that talks to Postgres, and a replica, with the same DATABASE_URL.
func everyCommand(t *testing.T, databaseURL string) {
	t.Helper()
	variables := map[string]string{
		"DATABASE_URL": databaseURL, "REDIS_URL": servicetest.Redis(t).URL(), "TOKEN_SECRET": tokenSecret, "DEMO": "true",
		"REDIS_TIMEOUT": "5s",
	}
	var said bytes.Buffer
	p := program{getenv: environment(variables), stdout: &said, stderr: &said}
	for _, command := range []string{"migrate", "seed", "reset"} {
		require.NoError(t, run(t.Context(), p, strings.Fields(command)), "%s: %s", command, &said)
	}
	d := deploy(t, databaseURL, demo)
	for _, strategy := range []string{"n_plus_one", "preload", "lease"} {
		got := ask(t, http.MethodGet, d.url+"/posts/trending?strategy="+strategy)
		require.Equal(t, http.StatusOK, got.status, "%s", got.body)
	}
	require.Equal(t, "done", d.reconciled(t, "buffered"))
	require.Equal(t, http.StatusNoContent, askReconcile(t, http.MethodDelete, d.url+"/reconcile", "").status)
	require.Equal(t, http.StatusAccepted, ask(t, http.MethodPost, d.url+"/payments/1/settled").status)
	require.Eventually(t, func() bool {
		return strings.Contains(string(ask(t, http.MethodGet, d.url+"/payments").body), `"reconciled":1,`)
	}, 20*time.Second, 10*time.Millisecond)
	_, err := connectAudit(t, variables)
	require.NoError(t, err)
}

// connectAudit has the audit connect to its servers; there are no replicas that it could ask.
func connectAudit(t *testing.T, variables map[string]string) (string, error) {
	t.Helper()
	var said bytes.Buffer
	err := run(t.Context(), program{getenv: environment(variables), stdout: &said, stderr: &said},
		[]string{"audit", "-replicas", "http://" + freeAddress(t)})
	if err != nil && (strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "pg_stat_")) {
		return said.String(), nil
	}
	return said.String(), err
}

// One connection string works for every command, whatever hosted Postgres puts into it.
func TestDatabaseURL(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]func(t *testing.T) string{
		"pool parameters": func(t *testing.T) string {
			return with(t, servicetest.EmptyPostgres(t), "pool_max_conns", "4", "pool_min_conns", "1",
				"pool_max_conn_idle_time", "1m", "application_name", "till")
		},
		"TLS with channel binding": func(t *testing.T) string { return servicetest.PostgresTLS(t) },
		"a new line at its end":    func(t *testing.T) string { return servicetest.EmptyPostgres(t) + "\n" },
		"key=value pairs": func(t *testing.T) string {
			u, err := url.Parse(servicetest.EmptyPostgres(t))
			require.NoError(t, err)
			return "host=127.0.0.1 user=postgres sslmode=disable port=" + u.Port() + " dbname=" + strings.Trim(u.Path, "/")
		},
		"simple protocol": func(t *testing.T) string {
			return with(t, servicetest.EmptyPostgres(t), "default_query_exec_mode", "simple_protocol")
		},
		"cache_describe": func(t *testing.T) string {
			return with(t, servicetest.EmptyPostgres(t), "default_query_exec_mode", "cache_describe")
		},
		"exec": func(t *testing.T) string {
			return with(t, servicetest.EmptyPostgres(t), "default_query_exec_mode", "exec")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everyCommand(t, address(t))
		})
	}
	for _, mode := range []string{"simple_protocol", "exec", "cache_describe", "describe_exec"} {
		t.Run(mode+" behind a pooler", func(t *testing.T) {
			t.Parallel()
			pooled := with(t, servicetest.PgBouncer(t, hundredPayments(t), nil), "default_query_exec_mode", mode)
			for range 2 { // what a first replica leaves on the pooler's sessions must not disturb a second one
				d := deploy(t, pooled, demo)
				for _, strategy := range []string{"n_plus_one", "batched_reads", "buffered", "single_statement"} {
					require.Equal(t, "done", d.reconciled(t, strategy), strategy)
				}
				require.Equal(t, http.StatusOK, ask(t, http.MethodGet, d.url+"/posts/trending?strategy=preload").status)
				require.Equal(t, http.StatusNoContent,
					askReconcile(t, http.MethodDelete, d.url+"/reconcile", "").status)
				require.NoError(t, d.stop())
			}
		})
	}
}

// What the connection string says of the pool and of the session's name counts.
func TestDatabaseURL_PoolAndName(t *testing.T) {
	t.Parallel()
	databaseURL := with(t, tenPosts(t), "pool_max_conns", "3", "application_name", "till")
	deploy(t, databaseURL, nil)
	conn, err := pgx.Connect(t.Context(), strings.Replace(databaseURL, "pool_max_conns=3&", "", 1))
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	require.Eventually(t, func() bool {
		var sessions int
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'till' AND pid <> pg_backend_pid()`).Scan(&sessions))
		return sessions == 3
	}, 20*time.Second, 10*time.Millisecond)

	c, err := loadConfig(environment(map[string]string{
		"DATABASE_URL": databaseURL, "REDIS_URL": "redis://x:1", "TOKEN_SECRET": tokenSecret, "DATABASE_MAX_CONNS": "5",
	}))
	require.NoError(t, err)
	require.EqualValues(t, 5, c.Database.MaxConns, "the variable wins")
}

// A role that may have two connections: the requests beyond wait for one of them, and are shed in the end.
func TestPostgres_ConnectionLimitOfTheRole(t *testing.T) {
	t.Parallel()
	databaseURL := tenPosts(t)
	admin, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	defer admin.Close(context.WithoutCancel(t.Context()))
	role := "few_" + strings.Trim(admin.Config().Database, "/")
	for _, sql := range []string{
		"CREATE ROLE " + role + " LOGIN CONNECTION LIMIT 2", "GRANT ALL ON ALL TABLES IN SCHEMA public TO " + role,
	} {
		_, err := admin.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	t.Cleanup(func() { // after the replica
		conn, err := pgx.Connect(context.WithoutCancel(t.Context()), databaseURL)
		require.NoError(t, err)
		defer conn.Close(context.WithoutCancel(t.Context()))
		_, err = conn.Exec(context.WithoutCancel(t.Context()), "DROP OWNED BY "+role+"; DROP ROLE "+role)
		require.NoError(t, err)
	})
	d := deploy(t, strings.Replace(databaseURL, "postgres@", role+"@", 1), map[string]string{
		"DEMO": "true", "RATELIMIT_LIMIT": "10000", "DATABASE_ACQUIRE_TIMEOUT": "5s", "DATABASE_MAX_CONNS": "8",
	})
	var group sync.WaitGroup
	statuses := make(chan int, 60)
	for range 30 {
		for _, path := range []string{"/posts/trending?strategy=preload", "/payments"} {
			group.Go(func() { statuses <- ask(t, http.MethodGet, d.url+path).status })
		}
	}
	group.Wait()
	close(statuses)
	for status := range statuses {
		require.Equal(t, http.StatusOK, status)
	}
}

// What Postgres refuses for the moment is 503 with Retry-After, and says nothing of the inside.
func TestPostgres_RefusesForTheMoment(t *testing.T) {
	t.Parallel()
	databaseURL := tenPosts(t)
	admin, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	defer admin.Close(context.WithoutCancel(t.Context()))
	does := func(sql string) {
		_, err := admin.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	name := pgx.Identifier{admin.Config().Database}.Sanitize()
	unavailable := func(t *testing.T, got reply) {
		t.Helper()
		require.Equal(t, http.StatusServiceUnavailable, got.status, "%s", got.body)
		require.NotEmpty(t, got.header.Get("Retry-After"))
		for _, inside := range []string{"SQLSTATE", "relation", "reconcile_jobs", "views", "127.0.0.1"} {
			require.NotContains(t, string(got.body), inside)
		}
	}
	t.Run("57014", func(t *testing.T) {
		d := deploy(t, databaseURL, map[string]string{"DEMO": "true", "DATABASE_STATEMENT_TIMEOUT": "100ms"})
		require.Equal(t, http.StatusOK, ask(t, http.MethodGet, d.url+"/posts/trending?strategy=preload").status)
		does("BEGIN")
		does("LOCK TABLE views IN ACCESS EXCLUSIVE MODE")
		unavailable(t, ask(t, http.MethodGet, d.url+"/posts/trending?strategy=preload"))
		does("ROLLBACK")
		require.NoError(t, d.stop())
	})
	t.Run("25006", func(t *testing.T) {
		does("ALTER DATABASE " + name + " SET default_transaction_read_only = on")
		d := deploy(t, databaseURL, demo)
		unavailable(t, askReconcile(t, http.MethodPost, d.url+"/reconcile", ""))
		unavailable(t, askReconcile(t, http.MethodDelete, d.url+"/reconcile", ""))
		require.Equal(t, http.StatusOK, ask(t, http.MethodGet, d.url+"/posts/trending?strategy=preload").status)
		does("ALTER DATABASE " + name + " RESET default_transaction_read_only")
		require.NoError(t, d.stop())
	})
	t.Run("57P01", func(t *testing.T) {
		d := deploy(t, databaseURL, demo)
		does("BEGIN")
		does("LOCK TABLE views IN ACCESS EXCLUSIVE MODE")
		answered := make(chan reply, 1)
		var asking sync.WaitGroup
		asking.Go(func() { answered <- ask(t, http.MethodGet, d.url+"/posts/trending?strategy=preload") })
		require.Eventually(t, func() bool {
			does(`SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
				WHERE NOT granted AND datname = current_database()`)
			return len(answered) == 1
		}, 20*time.Second, 10*time.Millisecond)
		asking.Wait()
		unavailable(t, <-answered)
		does("ROLLBACK")
		require.NoError(t, d.stop())
	})
	t.Run("no schema", func(t *testing.T) {
		empty := servicetest.EmptyPostgres(t)
		d := deploy(t, empty, demo)
		for _, got := range []reply{
			ask(t, http.MethodGet, d.url+"/posts/trending?strategy=preload"), ask(t, http.MethodGet, d.url+"/payments"),
			askReconcile(t, http.MethodPost, d.url+"/reconcile", ""),
		} {
			unavailable(t, got)
		}
		for _, command := range []string{"seed", "reconcile", "reset"} {
			p := program{
				getenv: environment(map[string]string{
					"DATABASE_URL": empty, "REDIS_URL": d.redis.URL(), "DEMO": "true", "OTEL_SDK_DISABLED": "true",
				}),
				stdout: io.Discard, stderr: io.Discard,
			}
			require.ErrorContains(t, run(t.Context(), p, []string{command}), "run `app migrate`", command)
		}
	})
}

// What Redis refuses for the moment is 503 too, where there is no way without Redis.
func TestRedis_RefusesADeletion(t *testing.T) {
	t.Parallel()
	d := deploy(t, tenPosts(t), demo)
	require.NoError(t, d.redis.Kill())
	got := ask(t, http.MethodDelete, d.url+"/posts/trending")
	require.Equal(t, http.StatusServiceUnavailable, got.status, "%s", got.body)
	require.NotEmpty(t, got.header.Get("Retry-After"))
	require.NotContains(t, string(got.body), "127.0.0.1")
}
