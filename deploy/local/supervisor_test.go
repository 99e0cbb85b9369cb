package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// soon is how long anything here may take: it takes milliseconds, and a busy machine is no reason to fail.
const soon = 30 * time.Second

func newSupervisor(t *testing.T) (*supervisor, context.Context) {
	ctx, crash := context.WithCancelCause(t.Context())
	s := &supervisor{dir: t.TempDir(), crash: crash, grace: soon}
	t.Cleanup(func() { require.NoError(t, s.stop()) })
	return s, ctx
}

func shell(name, script string) part { return part{name: name, command: []string{"sh", "-c", script}} }

// witness is a pipe whose writing end the processes under test inherit: it ends when, and only when, the last of them
// has ended. Unlike a look at process numbers, it can neither be too early nor mistake a stranger for ours.
func witness(t *testing.T) (reading *os.File, writing *os.File) {
	reading, writing, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { reading.Close(); writing.Close() })
	require.NoError(t, reading.SetReadDeadline(time.Now().Add(soon)))
	return reading, writing
}

func requireNobodyLeft(t *testing.T, reading *os.File) {
	t.Helper()
	_, err := io.Copy(io.Discard, reading)
	require.NoError(t, err, "a process is still there")
}

func TestAPartThatEndsByItselfEndsTheRunAndIsNamed(t *testing.T) {
	t.Parallel()
	s, ctx := newSupervisor(t)
	require.NoError(t, s.start(ctx, shell("truth", "echo all was well; echo the disk is full >&2; exit 3")))

	select {
	case <-ctx.Done():
	case <-time.After(soon):
		require.Fail(t, "the run goes on")
	}
	cause := context.Cause(ctx)
	require.EqualError(t, cause, "truth ended by itself (exit status 3). The end of its log:\n\n"+
		"    all was well\n    the disk is full\n")
}

func TestACleanExitOfWhatShouldStayUpIsACrashToo(t *testing.T) {
	t.Parallel()
	s, ctx := newSupervisor(t)
	require.NoError(t, s.start(ctx, shell("memory", "exit 0")))
	<-ctx.Done()
	require.EqualError(t, context.Cause(ctx), "memory ended by itself (exit status 0); its log is empty")
}

func TestStartReturnsWhenThePartAnswers(t *testing.T) {
	t.Parallel()
	s, ctx := newSupervisor(t)
	var asked atomic.Int32
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer door.Close()
	p := shell("door", "exec sleep 1000")
	p.ready = door.URL
	require.NoError(t, s.start(ctx, p))
	require.EqualValues(t, 3, asked.Load())
}

func TestAPartThatEndsBeforeItIsReadyIsTheReason(t *testing.T) {
	t.Parallel()
	s, ctx := newSupervisor(t)
	p := shell("door", "echo no such file; exit 1")
	p.ready = "http://127.0.0.1:1/"
	require.EqualError(t, s.start(ctx, p),
		"door ended by itself (exit status 1). The end of its log:\n\n    no such file\n")
}

func TestStopEndsWhatThePartsStartedToo(t *testing.T) {
	t.Parallel()
	s, ctx := newSupervisor(t)
	reading, writing := witness(t)
	parent := shell("parent", "sleep 1000 & echo ready; wait")
	parent.output = writing
	require.NoError(t, s.start(ctx, parent))
	requireLine(t, reading, "ready")

	require.NoError(t, s.stop())
	writing.Close()
	requireNobodyLeft(t, reading)
	require.NoError(t, ctx.Err(), "an end that was asked for is no crash")
}

func TestWhatDoesNotListenIsKilled(t *testing.T) {
	t.Parallel()
	s, ctx := newSupervisor(t)
	s.grace = 50 * time.Millisecond
	reading, writing := witness(t)
	deaf := shell("deaf", "trap '' TERM; echo ready; while :; do sleep 1000; done")
	deaf.output = writing
	require.NoError(t, s.start(ctx, deaf))
	requireLine(t, reading, "ready")

	require.NoError(t, s.stop())
	writing.Close()
	requireNobodyLeft(t, reading)
}

func TestPartsEndInTheOppositeOrder(t *testing.T) {
	t.Parallel()
	s, ctx := newSupervisor(t)
	reading, writing := witness(t)
	lines := bufio.NewScanner(reading)
	for _, name := range []string{"postgres", "app", "caddy"} {
		p := shell(name, "trap 'echo "+name+" ends; exit' TERM; echo ready; sleep 1000 & wait")
		p.output = writing
		require.NoError(t, s.start(ctx, p))
		require.True(t, lines.Scan())
	}
	require.NoError(t, s.stop())
	writing.Close()
	var ended []string
	for lines.Scan() {
		ended = append(ended, lines.Text())
	}
	require.Equal(t, []string{"caddy ends", "app ends", "postgres ends"}, ended)
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s, _ := newSupervisor(t)
	reading, writing := witness(t)
	ctx, cancel := context.WithCancel(t.Context())
	seed := shell("app seed", "echo ready; exec sleep 1000")
	seed.output = writing
	failed := make(chan error)
	go func() { failed <- s.run(ctx, seed) }()
	requireLine(t, reading, "ready")
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	writing.Close()
	requireNobodyLeft(t, reading)
}

func TestRunReportsAFailureWithTheLog(t *testing.T) {
	t.Parallel()
	s, ctx := newSupervisor(t)
	require.NoError(t, s.run(ctx, shell("app migrate", "exit 0")))
	err := s.run(ctx, shell("app seed", "echo no space left on device; exit 1"))
	require.EqualError(t, err, "app seed failed (exit status 1). The end of its log:\n\n    no space left on device\n")
}

// TestNothingIsLeftOfAProgramThatIsKilled starts this test binary once more, as a program that supervises a part in a
// directory, and kills it as nobody can prepare for.
func TestNothingIsLeftOfAProgramThatIsKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends the parts too")
	}
	t.Parallel()
	reading, writing := witness(t)
	dir := filepath.Join(t.TempDir(), "run")
	require.NoError(t, os.Mkdir(dir, 0o700))
	program := exec.CommandContext(t.Context(), os.Args[0])
	program.Env = append(os.Environ(), "SUPERVISE_IN="+dir)
	program.Stdout = writing
	require.NoError(t, program.Start())
	writing.Close()
	requireLine(t, reading, "it runs")
	require.NoError(t, program.Process.Signal(syscall.SIGKILL))
	require.Error(t, program.Wait())
	requireNobodyLeft(t, reading)
	require.Eventually(t, func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, os.ErrNotExist)
	}, soon, 10*time.Millisecond)
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("SUPERVISE_IN"); dir != "" {
		superviseUntilKilled(dir)
	}
	os.Exit(m.Run())
}

func superviseUntilKilled(dir string) {
	if _, err := removeAtTheEnd(dir); err != nil {
		panic(err)
	}
	s := &supervisor{dir: dir, crash: func(error) {}, grace: soon}
	p := shell("part", "echo it runs; exec sleep 1000")
	p.output = os.Stdout
	if err := s.start(context.Background(), p); err != nil {
		panic(err)
	}
	select {}
}

// requireLine reads exactly one line, and nothing after it.
func requireLine(t *testing.T, reading *os.File, want string) {
	t.Helper()
	got := make([]byte, len(want)+1)
	_, err := io.ReadFull(reading, got)
	require.NoError(t, err)
	require.Equal(t, want+"\n", string(got))
}
