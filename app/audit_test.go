package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/audit"
	"nervous/app/servicetest"
	"nervous/app/servicetest/otlp"
)

// audited is a service of three replicas over stores that nobody else uses.
type audited struct {
	environment map[string]string
	processes   []*replicaProcess
	replicas    []string // their URLs
	admins      []string // the URLs of their ADMIN_ADDR
	received    *otlp.Receiver
}

func startAudited(t *testing.T, replicas int, variables map[string]string) audited {
	t.Helper()
	postgres, err := servicetest.StartPostgres(t.Context(), servicetest.Options{Settings: map[string]string{
		"shared_preload_libraries": "pg_stat_statements", "fsync": "off",
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, postgres.Stop()) })
	url, err := postgres.CreateDatabase(t.Context(), "nervous", "")
	require.NoError(t, err)
	watching, err := os.ReadFile("../deploy/postgres.sql")
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), string(watching))
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))

	received := otlp.Receive(t)
	a := audited{received: received, environment: map[string]string{
		"DATABASE_URL": url, "REDIS_URL": servicetest.Redis(t).URL(), "TOKEN_SECRET": tokenSecret,
		"OTEL_EXPORTER_OTLP_ENDPOINT": received.URL(),
		"RATELIMIT_LIMIT":             "100", "RECONCILE_EVERY": "0",
	}}
	maps.Copy(a.environment, variables)
	for _, command := range []string{"migrate", "seed"} {
		p := program{getenv: environment(a.environment), stdout: io.Discard, stderr: t.Output()}
		require.NoError(t, run(t.Context(), p, []string{command}))
	}
	for _, name := range []string{"one", "two", "three"}[:replicas] {
		replica := startReplica(t, name, a.environment)
		a.replicas, a.admins = append(a.replicas, replica.url), append(a.admins, replica.admin)
		a.processes = append(a.processes, replica)
	}
	return a
}

// disconnect ends the connections that the replicas have to Redis, but for their subscriptions.
func (a audited) disconnect(t *testing.T) {
	t.Helper()
	options, err := redis.ParseURL(a.environment["REDIS_URL"])
	require.NoError(t, err)
	client := redis.NewClient(options)
	defer client.Close()
	require.NoError(t, client.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes").Err())
}

// audit runs `app audit` and returns what it reports.
func (a audited) audit(t *testing.T) (audit.Report, string, error) {
	t.Helper()
	var table bytes.Buffer
	file := filepath.Join(t.TempDir(), "audit.json")
	p := program{getenv: environment(a.environment), stdout: &table, stderr: t.Output()}
	err := run(t.Context(), p, []string{
		"audit", "-replicas", strings.Join(a.admins, ","), "-door", strings.Join(a.replicas, ","), "-json", file,
	})
	t.Logf("%s", table.String())
	var report audit.Report
	if text, missing := os.ReadFile(file); missing == nil {
		require.NoError(t, json.Unmarshal(text, &report))
	}
	return report, table.String(), err
}

// Every call that three replicas make to their stores is traced, whatever is asked of them, and no span is lost.
func TestEveryCallIsTraced(t *testing.T) {
	t.Parallel()
	audited := startAudited(t, 3, nil)
	audited.disconnect(t) // so that the load opens connections
	report, table, err := audited.audit(t)
	require.NoError(t, err)
	require.True(t, report.Complete())
	require.NotContains(t, table, "<-")

	// The load was what it says, or this would have been easy.
	rows := map[string]audit.Row{}
	for _, row := range append(report.Redis, report.Postgres...) {
		rows[row.Operation] = row
	}
	for _, operation := range []string{
		"GET", "EVALSHA", "SADD", "SSCAN", "HELLO", "TopPosts", "Author", "Authors", "BEGIN", "COMMIT", "buffer_generation",
		"reconcile_page", "reconcile_find", "reconcile_mark_one", "reconcile_mark", "reconcile_mark_all",
	} {
		require.Positive(t, rows[operation].Server, operation)
	}
	require.Positive(t, rows["GET"].InScripts)
	require.Greater(t, rows["GET"].Spans, rows["GET"].InScripts)
	require.Positive(t, report.SpansEnded)
}

// The audit is worth something only if it finds what it is for: a call that was made past the instrumentation.
func TestACallPastTheHooksIsFound(t *testing.T) {
	t.Parallel()
	a := startAudited(t, 1, nil)
	server, err := redis.ParseURL(a.environment["REDIS_URL"])
	require.NoError(t, err)
	server.DisableIdentity = true
	bare := redis.NewClient(server)
	t.Cleanup(func() { require.NoError(t, bare.Close()) })
	require.NoError(t, bare.Ping(t.Context()).Err()) // its HELLO is before the window
	conn, err := pgx.Connect(t.Context(), a.environment["DATABASE_URL"])
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) })
	script := bare.ScriptLoad(t.Context(), `return redis.call('GET', 'k')`).Val()

	for name, test := range map[string]struct {
		call func(context.Context) error
		want map[string]int64 // untraced, by operation
	}{
		"none":       {func(context.Context) error { return nil }, map[string]int64{}},
		"a command":  {func(ctx context.Context) error { return miss(bare.Get(ctx, "k")) }, map[string]int64{"GET": 1}},
		"a rejected": {func(ctx context.Context) error { bare.Do(ctx, "GET"); return nil }, map[string]int64{"GET": 1}},
		"a script": {func(ctx context.Context) error { return miss(bare.EvalSha(ctx, script, nil)) },
			map[string]int64{"EVALSHA": 1}},
		"a ping": {func(ctx context.Context) error { return bare.Ping(ctx).Err() }, map[string]int64{"PING": 1}},
		"a statement": {func(ctx context.Context) error {
			_, err := conn.Exec(ctx, "DELETE FROM views WHERE false")
			return err
		}, map[string]int64{"DELETE": 1}},
	} {
		t.Run(name, func(t *testing.T) { // one after another: each would be a difference in the others' windows
			report, err := audit.Run(t.Context(), audit.Options{
				DatabaseURL: a.environment["DATABASE_URL"], RedisURL: a.environment["REDIS_URL"], Replicas: a.admins,
				Patience: 3 * time.Second,
			}, test.call)
			require.NoError(t, err)
			untraced := map[string]int64{}
			for _, row := range append(report.Redis, report.Postgres...) {
				if row.Untraced() != 0 {
					untraced[row.Operation] = row.Untraced()
				}
			}
			require.Equal(t, test.want, untraced)
			require.Equal(t, len(test.want) == 0, report.Complete())
			var table bytes.Buffer
			require.NoError(t, report.Print(&table))
			require.Equal(t, len(test.want), strings.Count(table.String(), "<-"))
		})
	}
}

// miss forgives that there is nothing there.
func miss(cmd redis.Cmder) error {
	if err := cmd.Err(); !errors.Is(err, redis.Nil) {
		return err
	}
	return nil
}

// A call whose span never arrives is as good as untraced.
func TestALostSpanIsFound(t *testing.T) {
	t.Parallel()
	a := startAudited(t, 1, map[string]string{"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"})
	report, table, err := a.audit(t)
	require.ErrorContains(t, err, "not every span arrived")
	require.Positive(t, report.SpansLost)
	require.Less(t, report.SpansLost, report.SpansEnded)
	require.NotContains(t, table, "<-", "they are counted where they end")
}

func TestAnAuditThatCannotBeMadeSaysWhy(t *testing.T) {
	t.Parallel()
	a := startAudited(t, 1, nil)
	o := audit.Options{
		DatabaseURL: a.environment["DATABASE_URL"], RedisURL: a.environment["REDIS_URL"], Replicas: a.admins,
		Patience: time.Second,
	}
	whole := t
	t.Run("a replica begins anew", func(t *testing.T) {
		_, err := audit.Run(t.Context(), o, func(context.Context) error {
			require.NoError(t, a.processes[0].stop())
			again := maps.Clone(a.environment)
			again["LISTEN_ADDR"] = strings.TrimPrefix(a.replicas[0], "http://")
			again["ADMIN_ADDR"] = strings.TrimPrefix(a.admins[0], "http://")
			startReplica(whole, "one", again)
			return nil
		})
		require.ErrorContains(t, err, "one is not the process any more")
	})
	t.Run("nobody rests", func(t *testing.T) {
		busy, rest := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range 8 { // so that there is always one under way
			group.Go(func() {
				for busy.Err() == nil {
					ask(t, http.MethodGet, a.replicas[0]+"/")
				}
			})
		}
		_, err := audit.Run(t.Context(), o, func(context.Context) error { return nil })
		rest()
		group.Wait()
		require.ErrorContains(t, err, "is somebody using the service?")
	})
	t.Run("no demo", func(t *testing.T) {
		strict := maps.Clone(a.environment)
		strict["DEMO"] = "false"
		o.Replicas = []string{startReplica(t, "strict", strict).admin}
		_, err := audit.Run(t.Context(), o, nil)
		require.ErrorContains(t, err, "DEMO=true")
	})
}

func TestAnAuditOfNobodyIsRefused(t *testing.T) {
	t.Parallel()
	variables := map[string]string{
		"DATABASE_URL": "postgres://127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1", "TOKEN_SECRET": tokenSecret,
	}
	for flags, want := range map[string]string{
		"-replicas 127.0.0.1:8081":              "is not the address of a replica",
		"-replicas http://no.such.host.invalid": "no such host",
	} {
		p := program{getenv: environment(variables), stdout: io.Discard, stderr: io.Discard}
		require.ErrorContains(t, run(t.Context(), p, append([]string{"audit"}, strings.Fields(flags)...)), want)
	}
	p := program{getenv: environment(variables), stdout: io.Discard, stderr: io.Discard}
	require.ErrorIs(t, run(t.Context(), p, []string{"audit", "everything"}), errUsage)
}
