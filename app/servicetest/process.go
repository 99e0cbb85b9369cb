package servicetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// process is one server process: started as somebody else when we are root, heard (the end of what it says is kept for
// error messages), and watched by a warden for as long as it lives.
type process struct {
	name string
	cmd  *exec.Cmd
	said *ending
	gone chan struct{} // closed once the process has ended and its output is complete
}

// start runs a program in dir. Whatever it writes goes to log as well, when there is one.
func start(warden *warden, dir string, log io.Writer, program string, args ...string) (*process, error) {
	p := &process{name: program, cmd: exec.Command(program, args...), said: &ending{also: log}, gone: make(chan struct{})}
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	// A group of its own: Ctrl-C in a terminal reaches us alone, and we stop our servers in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		uid, gid, err := unprivileged()
		if err != nil {
			return nil, err
		}
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: gid}
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	warden.watch(p.cmd.Process.Pid)
	go func() {
		_ = p.cmd.Wait()
		close(p.gone)
	}()
	return p, nil
}

// signal sends a signal; that the process is gone already is not an error.
func (p *process) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// stop asks with the given signal, waits, and kills what has not gone within ten seconds.
func (p *process) stop(s syscall.Signal) error {
	if err := p.signal(s); err != nil {
		return err
	}
	select {
	case <-p.gone:
		return nil
	case <-time.After(10 * time.Second):
		err := p.signal(syscall.SIGKILL)
		<-p.gone
		return errors.Join(fmt.Errorf("%s ignored %v for 10 s and was killed", p.name, s), err)
	}
}

// await calls ready until it returns nil. It gives up, with the reason and the end of the server's output, when the
// process ends or ctx does.
func (p *process) await(ctx context.Context, ready func(context.Context) error) error {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.gone:
			return &startError{name: p.name, state: p.cmd.ProcessState.String(), said: p.said.String()}
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w\n%s", p.name, errors.Join(context.Cause(ctx), err), p.said)
		case <-again.C:
		}
	}
}

// startError is a server that ended before it answered.
type startError struct{ name, state, said string }

func (e *startError) Error() string {
	return fmt.Sprintf("%s ended before it answered (%s):\n%s", e.name, e.state, e.said)
}

// unprivileged names whom servers run as when we are root, which Postgres refuses.
func unprivileged() (uid, gid uint32, err error) {
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		if err != nil {
			return 0, 0, fmt.Errorf("user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			return 0, 0, fmt.Errorf("user %s: %w", name, err)
		}
		return uint32(uid), uint32(gid), nil
	}
	return 0, 0, errors.New("running as root, and there is no user postgres or nobody to run the servers as")
}

// directory makes sure that dir exists and belongs to whoever will run the server. An empty dir is a temporary one,
// which the warden removes if we cannot.
func directory(dir, kind string) (path string, temporary bool, err error) {
	if temporary = dir == ""; temporary {
		dir, err = os.MkdirTemp("", "nervous-"+kind+"-")
	} else {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return "", false, err
	}
	if err := owned(dir, nil); err != nil {
		return "", false, err
	}
	return dir, temporary, nil
}

// owned gives a file that was written without an error to the user that the servers run as.
func owned(path string, err error) error {
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	uid, gid, err := unprivileged()
	if err != nil {
		return err
	}
	return os.Chown(path, int(uid), int(gid))
}

// ending keeps the last part of what is written to it.
type ending struct {
	also io.Writer

	mu   sync.Mutex
	kept []byte
}

func (e *ending) Write(p []byte) (int, error) {
	const enough = 4096
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kept = append(e.kept, p...)
	e.kept = e.kept[max(0, len(e.kept)-enough):]
	if e.also != nil {
		return e.also.Write(p)
	}
	return len(p), nil
}

func (e *ending) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return string(e.kept)
}
