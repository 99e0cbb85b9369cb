package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
	"nervous/app/servicetest"
)

// terminalSession is where commands are typed: in the environment of a demo, over real stores.
type terminalSession struct {
	environment []string
	database    string
	pool        *pgxpool.Pool
	reconciler  *reconcile.Reconciler
}

func newTerminal(t *testing.T) terminalSession {
	t.Helper()
	server := servicetest.Redis(t)
	s := terminalSession{database: hundredPayments(t)}
	s.environment = append(os.Environ(), "DATABASE_URL="+s.database, "REDIS_URL="+server.URL(),
		"DEMO=true", "OTEL_SDK_DISABLED=true")
	var err error
	s.pool, err = pgxpool.New(t.Context(), s.database)
	require.NoError(t, err)
	t.Cleanup(s.pool.Close)
	rdb := redis.NewClient(server.Options())
	t.Cleanup(func() { _ = rdb.Close() })
	s.reconciler = reconcile.New(s.pool, rdb, reconcile.Options{})
	return s
}

// hundredPayments are as the seed makes them: one a cent short, one in another currency, one without a settlement.
func hundredPayments(t *testing.T) (databaseURL string) {
	t.Helper()
	databaseURL = servicetest.Postgres(t)
	conn, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, sql := range []string{
		`INSERT INTO payments (id, reference, amount_minor, currency)
		SELECT n, n::text, 100, 'EUR' FROM generate_series(1, 100) n`,
		`INSERT INTO settlements (reference, amount_minor, currency)
		SELECT n::text, 100 - (n = 20)::int, CASE n WHEN 50 THEN 'CHF' ELSE 'EUR' END
		FROM generate_series(1, 100) n WHERE n <> 80`,
	} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	return databaseURL
}

// typed is a command that has been typed, and not yet ended.
type typed struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
}

func (s terminalSession) begin(t *testing.T, command string) *typed {
	t.Helper()
	c := &typed{cmd: exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0])}
	c.cmd.Env = append(s.environment, commandVariable+"="+command)
	c.cmd.Stdout, c.cmd.Stderr = &c.stdout, &c.stderr
	require.NoError(t, c.cmd.Start())
	servicetest.Guard(t, c.cmd.Process.Pid)
	return c
}

// end returns how it ended and what it said.
func (c *typed) end(t *testing.T) (status int, stdout, stderr string) {
	t.Helper()
	err := c.cmd.Wait()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		err, status = nil, failed.ExitCode()
	}
	require.NoError(t, err)
	return status, c.stdout.String(), c.stderr.String()
}

func TestReconcileFromATerminal(t *testing.T) {
	t.Parallel()
	s := newTerminal(t)
	status, stdout, stderr := s.begin(t, "reconcile -strategy buffered -limit 60").end(t)
	require.Zero(t, status, stderr)
	require.Empty(t, stderr)
	require.Regexp(t, `(?m)^run +[0-9a-f-]{36}, done$`, stdout)
	require.Regexp(t, `(?m)^reconciled +58 of 60 payments in [\d.]+ s$`, stdout)
	require.Regexp(t, `(?m)^not +1 of another amount, 1 in another currency, 0 without a settlement$`, stdout)
	require.Regexp(t, `(?m)^round-trips +7 to Postgres, \d+ to Redis, and \d+ for this record$`, stdout)
	require.NotContains(t, stdout, "directly")

	status, stdout, stderr = s.begin(t, "reconcile -strategy n_plus_one").end(t)
	require.Zero(t, status, stderr)
	require.Regexp(t, `(?m)^reconciled +39 of 42 payments`, stdout, "the two of before are still pending")

	status, stdout, stderr = s.begin(t, "reset").end(t)
	require.Zero(t, status, stderr)
	require.Equal(t, "every payment is pending\n", stdout)
	truth, err := s.reconciler.Truth(t.Context())
	require.NoError(t, err)
	require.Equal(t, reconcile.Truth{Pending: 100, PendingThatAgree: 97}, truth)
}

// While a run goes on, the second one and a reset say which it is. Ctrl-C cancels it.
func TestATerminalIsInterrupted(t *testing.T) {
	t.Parallel()
	s := newTerminal(t)
	lock, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = lock.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = lock.Exec(t.Context(), "SELECT FROM payments WHERE id = 51 FOR UPDATE") // there it now stands still
	require.NoError(t, err)
	running := s.begin(t, "reconcile -strategy batched_reads")
	require.Eventually(t, func() bool {
		var waiting int
		err := s.pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
		return err == nil && waiting > 0
	}, 20*time.Second, 5*time.Millisecond)
	var id string
	require.NoError(t, s.pool.QueryRow(t.Context(), "SELECT id::text FROM reconcile_jobs").Scan(&id))

	for _, command := range []string{"reconcile", "reset"} {
		status, stdout, stderr := s.begin(t, command).end(t)
		require.Equal(t, 1, status)
		require.Empty(t, stdout)
		require.Equal(t, "app: run "+id+" goes on\n", stderr)
	}
	require.NoError(t, running.cmd.Process.Signal(syscall.SIGINT))
	status, stdout, stderr := running.end(t)
	require.Equal(t, 1, status)
	require.Contains(t, stdout, id+", cancelled")
	require.Contains(t, stdout, "48 of 100 payments", "those before it, without the two that do not agree")
	require.Contains(t, stderr, "app: the run was cancelled; what it has marked stays marked\n")
}

func TestReconcileAndResetAreUsedWrongly(t *testing.T) {
	t.Parallel()
	variables := map[string]string{"DATABASE_URL": "postgres://127.0.0.1:1/nobody", "REDIS_URL": "redis://127.0.0.1:1"}
	for _, c := range []struct{ command, said string }{
		{"reconcile -strategy magic", `there is no strategy "magic", only n_plus_one, batched_reads, buffered, single`},
		{"reconcile -limit all", `invalid value "all" for flag -limit`},
		{"reconcile -limit -1", "the limit must not be negative"},
		{"reconcile -fast", "flag provided but not defined: -fast"},
		{"reconcile everything", `a run has no use for ["everything"]`},
		{"reset everything", "usage: app reset"},
	} {
		var said, out bytes.Buffer
		err := run(t.Context(), program{environment(variables), &out, &said}, strings.Fields(c.command))
		require.ErrorIs(t, err, errUsage, c.command)
		require.Contains(t, said.String(), c.said, c.command)
		require.Empty(t, out.String())
	}
	p := program{environment(variables), &bytes.Buffer{}, &bytes.Buffer{}}
	require.ErrorContains(t, run(t.Context(), p, []string{"reset"}), "for a demo only: set DEMO=true")
	p.getenv = environment(nil)
	for _, command := range []string{"reconcile", "reset"} {
		require.ErrorContains(t, run(t.Context(), p, []string{command}), "DATABASE_URL is required and not set")
	}
}
