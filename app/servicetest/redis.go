package servicetest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// RedisServer is a running Redis that this process owns. Kill, Pause, Resume and Restart are the ways in which a real
// one disappears and comes back.
type RedisServer struct {
	Port int
	Dir  string

	program   string
	arguments []string // before all others: a Sentinel's configuration file
	options   Options
	process   *process
	warden    *warden
	temporary bool

	socket string // the path of the Unix socket, where it listens on no port
	// Where it speaks TLS only: the path of its certificate, beside which is the key, and what clients need.
	certificate string
	clientTLS   *tls.Config
}

// StartRedis starts a private Redis on 127.0.0.1 and returns once it answers. The caller must Stop it; should the
// calling process die instead, the server goes with it. The error matches ErrNotInstalled when there is no Redis on
// this machine.
func StartRedis(ctx context.Context, options Options) (*RedisServer, error) {
	return startRedis(ctx, options, func(*RedisServer) error { return nil })
}

// startRedis calls prepare when the server has its directory and does not run yet.
func startRedis(ctx context.Context, options Options, prepare func(*RedisServer) error) (*RedisServer, error) {
	program, err := find("redis-server")
	if err != nil {
		return nil, err
	}
	dir, temporary, err := directory(options.Dir, "redis")
	if err != nil {
		return nil, err
	}
	removed := ""
	if temporary {
		removed = dir
	}
	guard, err := post("KILL", removed) // anything milder waits for ever in a paused server
	if err != nil {
		return nil, err
	}
	s := &RedisServer{Dir: dir, program: program, options: options, warden: guard, temporary: temporary}
	err = prepare(s)
	switch {
	case err != nil:
	case s.socket != "":
		err = s.launch(ctx)
	default:
		err = onPort(options.Port, func(port int) error {
			s.Port = port
			return s.launch(ctx)
		})
	}
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *RedisServer) launch(ctx context.Context) (err error) {
	port := "--port"
	if s.clientTLS != nil {
		port = "--tls-port"
	}
	args := append(slices.Clone(s.arguments), "--bind", "127.0.0.1", "--dir", s.Dir)
	if port == "--tls-port" || s.socket != "" {
		args = append(args, "--port", "0")
	}
	if s.socket == "" {
		args = append(args, port, strconv.Itoa(s.Port))
	}
	for _, name := range slices.Sorted(maps.Keys(s.options.Settings)) {
		args = append(args, "--"+name, s.options.Settings[name])
	}
	if s.process, err = start(s.warden, s.Dir, s.options.Log, s.program, args...); err != nil {
		return err
	}
	return s.process.await(ctx, s.answers)
}

// answers also makes sure that it is ours who answers: whoever took the port between our choice and our start would
// answer too. While Redis still loads its data, INFO works and says so.
func (s *RedisServer) answers(ctx context.Context) error {
	conn, err := net.DialTimeout(s.network(), s.Addr(), time.Second)
	if err != nil {
		return err // before go-redis would log the same, several times
	}
	_ = conn.Close()
	client := redis.NewClient(s.Options())
	defer client.Close()
	info, err := client.Info(ctx, "server", "persistence").Result()
	if err != nil {
		return err
	}
	if !strings.Contains(info, fmt.Sprintf("\nprocess_id:%d\r\n", s.process.cmd.Process.Pid)) {
		return fmt.Errorf("%s belongs to another Redis", s.Addr())
	}
	if strings.Contains(info, "\nloading:1\r\n") {
		return errors.New("loading its data")
	}
	return nil
}

// running says whether the process has not ended.
func (s *RedisServer) running() bool {
	select {
	case <-s.process.gone:
		return false
	default:
		return true
	}
}

func (s *RedisServer) network() string {
	if s.socket != "" {
		return "unix"
	}
	return "tcp"
}

// Addr is host:port, or the path of the Unix socket.
func (s *RedisServer) Addr() string {
	if s.socket != "" {
		return s.socket
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))
}

// URL is what REDIS_URL takes. With TLS it asks for no verification, because the certificate is made for the test; a
// process that has CAFile in SSL_CERT_FILE can verify it without that parameter.
func (s *RedisServer) URL() string {
	switch {
	case s.socket != "":
		return "unix://" + s.socket
	case s.clientTLS != nil:
		return "rediss://" + s.Addr() + "?skip_verify=true"
	}
	return "redis://" + s.Addr()
}

// Options are a client's, new with each call: no silent retries, one dial, and contexts are obeyed, so that what a test
// counts is what the caller asked for. With TLS the certificate is verified.
func (s *RedisServer) Options() *redis.Options {
	return &redis.Options{
		Network: s.network(), Addr: s.Addr(), TLSConfig: s.clientTLS.Clone(),
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true, DialTimeout: time.Second,
	}
}

// PID is the number of the running process.
func (s *RedisServer) PID() int { return s.process.cmd.Process.Pid }

// Kill is kill -9: connections are reset, and what was not yet on disk is lost. Restart brings it back.
func (s *RedisServer) Kill() error { return s.process.stop(syscall.SIGKILL) }

// Pause stops the process: connections stay open and nobody answers.
func (s *RedisServer) Pause() error { return s.process.signal(syscall.SIGSTOP) }

// Resume ends a Pause; what was sent meanwhile is answered.
func (s *RedisServer) Resume() error { return s.process.signal(syscall.SIGCONT) }

// Restart kills the server if it runs and starts it again, on the same port and with the same directory and settings.
func (s *RedisServer) Restart(ctx context.Context) error {
	if err := s.Kill(); err != nil {
		return err
	}
	return s.launch(ctx)
}

// Stop ends the server and removes its directory if that was a temporary one. Stopping twice is not an error.
func (s *RedisServer) Stop() error {
	var err error
	if s.process != nil {
		how := syscall.SIGTERM // saves what its settings say
		if s.temporary {
			how = syscall.SIGKILL // nobody will read this again
		}
		err = s.process.stop(how)
	}
	if s.temporary {
		err = errors.Join(err, os.RemoveAll(s.Dir))
	}
	s.warden.dismiss()
	return err
}

// Gone is closed when the server has ended, whoever ended it; Restart makes a new one.
func (s *RedisServer) Gone() <-chan struct{} { return s.process.gone }
