package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// defaultGrace is what compose gives a replica to end in: more than its SHUTDOWN_TIMEOUT, so that the last spans are
	// not cut off.
	defaultGrace = 12 * time.Second

	// patience is how long a part may take to be ready: many times what it takes on a busy machine.
	patience = time.Minute
)

// part is one program of the deployment.
type part struct {
	name    string
	command []string
	env     []string // added to this program's own environment, and winning over it
	ready   string   // the URL that answers 200 once the part is ready; "" where nobody needs to wait for that
	output  *os.File // nil: the part's log; a file of ours where the part talks to the person, as a progress bar does
}

// supervisor starts parts, notices when one ends that nobody asked to, and ends them all, the last started first. Each
// part leads a process group of its own: a Ctrl-C in the terminal reaches this program alone, which then ends the parts
// in order, and what a part started ends with it.
type supervisor struct {
	dir   string                  // where parts run and log
	crash context.CancelCauseFunc // ends the whole run, with the part that failed as the reason
	grace time.Duration           // how long a part may take to end when it is asked to, before it is killed

	mu       sync.Mutex
	watched  []watched
	stopping bool
}

// watched is a running part, or a server that somebody else started for us.
type watched struct {
	name string
	end  func() error    // ends it and waits for that
	kill func() error    // kill -9, and waits for that; nil for what somebody else started
	gone <-chan struct{} // closed when it has ended
	how  func() string   // how it ended, known after gone; nil where nobody can tell
}

// partError is a part that failed, with the end of its log: what a person needs first.
type partError struct {
	name, how string
	log       []string
}

func (e *partError) Error() string {
	if len(e.log) == 0 {
		return fmt.Sprintf("%s %s; its log is empty", e.name, e.how)
	}
	return fmt.Sprintf("%s %s. The end of its log:\n\n    %s\n", e.name, e.how, strings.Join(e.log, "\n    "))
}

// start runs a part that is to stay up and returns when it is ready. If it ends before stop, the run is over and the
// part is named as the reason.
func (s *supervisor) start(ctx context.Context, p part) error {
	running, err := s.spawn(context.Background(), p)
	if err != nil {
		return err
	}
	s.watch(watched{
		name: p.name, end: running.stop, kill: running.kill, gone: running.gone,
		how: func() string { return ending(running.err) },
	})
	if p.ready == "" {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = answers(waiting, p.ready)
	if errors.Is(err, context.DeadlineExceeded) {
		return s.failure(p.name, fmt.Sprintf("did not answer at %s within %v", p.ready, patience))
	}
	return err
}

// watch takes something that runs under supervision.
func (s *supervisor) watch(w watched) {
	s.mu.Lock()
	s.watched = append(s.watched, w)
	s.mu.Unlock()
	go func() {
		<-w.gone
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.stopping || !s.watches(w) {
			return
		}
		how := "ended by itself"
		if w.how != nil {
			how += " (" + w.how() + ")"
		}
		s.crash(s.failure(w.name, how))
	}()
}

// run runs a part to its end; when the context ends first, so does the part. Its failure is the error.
func (s *supervisor) run(ctx context.Context, p part) error {
	running, err := s.spawn(ctx, p)
	if err != nil {
		return err
	}
	<-running.gone
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if running.err != nil {
		return s.failure(p.name, "failed ("+ending(running.err)+")")
	}
	return nil
}

// stop ends everything that is watched, the last started first, and returns when no process of it is left.
func (s *supervisor) stop() error {
	s.mu.Lock()
	s.stopping = true
	all := s.watched
	s.mu.Unlock()
	var err error
	for _, w := range slices.Backward(all) {
		if e := w.end(); e != nil {
			err = errors.Join(err, fmt.Errorf("end %s: %w", w.name, e))
		}
	}
	return err
}

// process is a program that was started.
type process struct {
	group  int // its own
	cancel context.CancelFunc
	gone   chan struct{} // closed when neither it nor anything that it started is left
	err    error         // how it ended; valid after gone
}

// stop asks the process to end, insists after a while, and waits for it. How it ended does not matter any more.
func (p *process) stop() error {
	p.cancel()
	<-p.gone
	return nil
}

// kill ends the process, and what it started, without giving it a chance to do anything about that.
func (p *process) kill() error {
	err := syscall.Kill(-p.group, syscall.SIGKILL)
	<-p.gone
	return err
}

func (s *supervisor) spawn(ctx context.Context, p part) (*process, error) {
	output := p.output
	if output == nil {
		log, err := os.OpenFile(s.log(p.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		defer log.Close() // the part has its own descriptor once it runs
		output = log
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, p.command[0], p.command[1:]...)
	cmd.Dir, cmd.Env = s.dir, append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = ownGroup()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = s.grace
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	running := &process{group: cmd.Process.Pid, cancel: cancel, gone: make(chan struct{})}
	go func() {
		defer close(running.gone)
		running.err = cmd.Wait()
		// What the part started and left behind has nobody else to end it.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}()
	return running, nil
}

func (s *supervisor) failure(name, how string) error {
	return &partError{name: name, how: how, log: lastLines(s.log(name), 12)}
}

// log is where a part's output goes.
func (s *supervisor) log(name string) string {
	return filepath.Join(s.dir, strings.ReplaceAll(name, " ", "-")+".log")
}

// answers returns when the URL answers 200, or with the reason why the context ended before.
func answers(ctx context.Context, url string) error {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if answer, err := http.DefaultClient.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, answer.Body)
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-again.C:
		}
	}
}

// ending says in words how a process ended; a clean exit of what should have stayed up is news too.
func ending(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// lastLines returns at most n lines from the end of a file, none if it cannot be read.
func lastLines(path string, n int) []string {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	// A log can be long and its lines are short: the last part of the file holds more than enough of them.
	const tail = 16 << 10
	if info, err := file.Stat(); err == nil && info.Size() > tail {
		_, _ = file.Seek(-tail, io.SeekEnd)
	}
	var lines []string
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		lines = append(lines, scanner.Text())
	}
	return lines[max(0, len(lines)-n):]
}
