package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

// A command that starts telemetry, or that is to be interrupted, must be a process of its own. It is this test binary,
// started again to be the app.
const commandVariable = "APP_TEST_COMMAND"

func TestMain(m *testing.M) {
	if args := os.Getenv(commandVariable); args != "" {
		os.Args = append(os.Args[:1], strings.Fields(args)...)
		main()
		return
	}
	switch address := os.Getenv(bareVariable); {
	case address != "":
		log.Fatal(serveBare(address))
	case os.Getenv(allocationsVariable) != "":
		if err := countAllocations(context.Background()); err != nil {
			log.Fatal(err)
		}
		return
	}
	os.Exit(m.Run())
}

// replicaProcess is `app serve` as a process of its own: it has a telemetry of its own, and can be killed.
type replicaProcess struct {
	t     testing.TB
	name  string // its REPLICA_ID
	url   string
	admin string // the URL of its ADMIN_ADDR
	cmd   *exec.Cmd
	ended chan error
	// stderr is what it has logged: all of it once it has ended, and not to be read before.
	stderr bytes.Buffer
}

// startReplica returns when the replica is ready. The variables are added to those that every test's replica has;
// DATABASE_URL and REDIS_URL must be among them. It ends with its test.
func startReplica(t testing.TB, name string, variables map[string]string) *replicaProcess {
	t.Helper()
	r := startUnready(t, name, variables)
	r.awaitReady()
	return r
}

// startUnready does not wait until the replica is ready.
func startUnready(t testing.TB, name string, variables map[string]string) *replicaProcess {
	t.Helper()
	address := cmp.Or(variables["LISTEN_ADDR"], freeAddress(t))
	admin := cmp.Or(variables["ADMIN_ADDR"], freeAddress(t))
	r := &replicaProcess{
		t: t, name: name, url: "http://" + address, admin: "http://" + admin, ended: make(chan error, 1),
	}
	// A context would kill it; it ends in order, or by its guard.
	r.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0])
	r.cmd.Stdout, r.cmd.Stderr = t.Output(), io.MultiWriter(t.Output(), &r.stderr)
	r.cmd.Env = append(os.Environ(), commandVariable+"=serve",
		"LISTEN_ADDR="+address, "ADMIN_ADDR="+admin, "REPLICA_ID="+name,
		"TOKEN_SECRET="+tokenSecret, "DEMO=true", "SHUTDOWN_DELAY=0s",
		// A machine that is busy with other tests is no fault of Redis's.
		"REDIS_TIMEOUT=5s", "RATELIMIT_BUDGET=5s", "RATELIMIT_LIMIT=10000",
		// Who waits for telemetry should not wait long.
		"OTEL_BSP_SCHEDULE_DELAY=50", "OTEL_METRIC_EXPORT_INTERVAL=200", "OTEL_BLRP_SCHEDULE_DELAY=50",
		"OTEL_GO_X_OBSERVABILITY=true",
	)
	for variable, value := range variables {
		r.cmd.Env = append(r.cmd.Env, variable+"="+value) // the last one counts
	}
	require.NoError(t, r.cmd.Start())
	servicetest.Guard(t, r.cmd.Process.Pid)
	go func() { r.ended <- r.cmd.Wait() }()
	t.Cleanup(func() {
		if !t.Failed() {
			require.NoError(t, r.stop())
		}
		r.Kill()
	})
	return r
}

func (r *replicaProcess) awaitReady() {
	r.t.Helper()
	late, again := time.After(20*time.Second), time.NewTicker(10*time.Millisecond)
	defer again.Stop()
	for !r.ready() {
		select {
		case <-again.C:
		case <-late:
			require.Fail(r.t, "it is not ready", r.name)
		case err := <-r.ended:
			r.ended <- nil
			require.Fail(r.t, "it has ended", "%s: %v", r.name, err)
		}
	}
}

// answers says whether it listens.
func (r *replicaProcess) answers() bool {
	conn, err := net.DialTimeout("tcp", r.url[len("http://"):], time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func (r *replicaProcess) ready() bool {
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.url+"/readyz", nil)
	require.NoError(r.t, err)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode == http.StatusOK
}

// Signal sends a signal; that the replica is gone already is not an error.
func (r *replicaProcess) Signal(s os.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); !errors.Is(err, os.ErrProcessDone) {
		require.NoError(r.t, err)
	}
}

// Kill is kill -9. To kill twice is allowed.
func (r *replicaProcess) Kill() {
	r.t.Helper()
	r.Signal(syscall.SIGKILL)
	if err := <-r.ended; err != nil {
		r.t.Logf("%s was killed: %v", r.name, err)
	}
	r.ended <- nil
}

// stop asks for a graceful end, which flushes the telemetry, and returns how it ended; nil where it had ended before.
func (r *replicaProcess) stop() error {
	r.t.Helper()
	r.Signal(syscall.SIGTERM)
	err := <-r.ended
	r.ended <- nil
	return err
}

// freeAddress is free now, and so most likely a moment later.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}
