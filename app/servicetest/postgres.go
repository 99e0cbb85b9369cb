package servicetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Options say how to start a server. The zero value is a server with its own defaults on a free port of 127.0.0.1 in a
// temporary directory that goes when the server stops.
type Options struct {
	// Dir holds the data and stays after Stop; a Postgres cluster that is already there is used. Defaults to a temporary
	// directory.
	Dir string
	// Port on 127.0.0.1. Defaults to a free one.
	Port int
	// Settings go to the server as they are: `fsync: off` for Postgres, `maxmemory: 64mb` for Redis. Defaults to none.
	Settings map[string]string
	// Log also gets what the server writes. Defaults to nobody; the end of it is in the error of a failed start anyway.
	Log io.Writer
}

// PostgresServer is a running Postgres that this process owns.
type PostgresServer struct {
	Port int
	Dir  string

	process   *process
	warden    *warden
	temporary bool
}

// StartPostgres starts a private Postgres and returns once it answers. Everybody on this machine may connect as the
// superuser `postgres` (it listens on 127.0.0.1 only), so it is for tests and demonstrations. Postgres refuses root, so
// root starts it as the user postgres, or nobody. The caller must Stop it; should the calling process die instead, the
// server goes with it. The error matches ErrNotInstalled when there is no Postgres on this machine.
func StartPostgres(ctx context.Context, options Options) (*PostgresServer, error) {
	initdb, err := find("initdb")
	if err != nil {
		return nil, err
	}
	if initdb, err = filepath.EvalSymlinks(initdb); err != nil { // its neighbours are beside the real one
		return nil, err
	}
	postgres := filepath.Join(filepath.Dir(initdb), "postgres")
	dir, temporary, err := directory(options.Dir, "postgres")
	if err != nil {
		return nil, err
	}
	// QUIT is Postgres's immediate shutdown: its children end too and it frees its shared memory. After KILL neither
	// would happen.
	removed := ""
	if temporary {
		removed = dir
	}
	guard, err := post("QUIT", removed)
	if err != nil {
		return nil, err
	}
	s := &PostgresServer{Dir: dir, warden: guard, temporary: temporary}
	data := filepath.Join(dir, "data")
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err != nil {
		if err := s.initialize(ctx, initdb, data, options.Log); err != nil {
			return nil, errors.Join(err, s.Stop())
		}
	}
	settings := map[string]string{"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
	maps.Copy(settings, options.Settings)
	err = onPort(options.Port, func(port int) error {
		args := []string{"-D", data, "-p", strconv.Itoa(port)}
		for _, name := range slices.Sorted(maps.Keys(settings)) {
			args = append(args, "-c", name+"="+settings[name])
		}
		s.Port = port
		if s.process, err = start(guard, dir, options.Log, postgres, args...); err != nil {
			return err
		}
		return s.process.await(ctx, func(ctx context.Context) error { return s.answers(ctx, data) })
	})
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *PostgresServer) initialize(ctx context.Context, initdb, data string, log io.Writer) error {
	// C sorts alike on every machine. Nothing is worth syncing yet: a cluster whose making was interrupted is made again.
	p, err := start(s.warden, s.Dir, log, initdb, "-D", data, "--username=postgres", "--auth=trust",
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if err != nil {
		return err
	}
	select {
	case <-p.gone:
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), p.stop(syscall.SIGTERM))
	}
	if !p.cmd.ProcessState.Success() {
		return fmt.Errorf("initdb: %v:\n%s", p.cmd.ProcessState, p.said)
	}
	return nil
}

// answers also makes sure that it is ours who answers: whoever took the port between our choice and our start would
// answer too.
func (s *PostgresServer) answers(ctx context.Context, data string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var theirs string
	if err := conn.QueryRow(ctx, "SHOW data_directory").Scan(&theirs); err != nil {
		return err
	}
	if theirs != data {
		return fmt.Errorf("port %d belongs to the Postgres of %s", s.Port, theirs)
	}
	return nil
}

// URL is how to connect to one of the server's databases.
func (s *PostgresServer) URL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User("postgres"), Path: "/" + database,
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)),
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// CreateDatabase makes a database that is a copy of the template (empty: an empty one) and returns its URL. Nobody may
// be connected to the template.
func (s *PostgresServer) CreateDatabase(ctx context.Context, name, template string) (databaseURL string, err error) {
	if template == "" {
		template = "template1"
	}
	create := "CREATE DATABASE " + pgx.Identifier{name}.Sanitize() + " TEMPLATE " + pgx.Identifier{template}.Sanitize()
	return s.URL(name), s.administer(ctx, create)
}

// DropDatabase removes a database, disconnecting whoever uses it.
func (s *PostgresServer) DropDatabase(ctx context.Context, name string) error {
	return s.administer(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
}

func (s *PostgresServer) administer(ctx context.Context, command string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, command)
	return err
}

// Stop ends the server and removes its directory if that was a temporary one. Stopping twice is not an error.
func (s *PostgresServer) Stop() error {
	var err error
	if s.process != nil {
		how := syscall.SIGINT // fast: clients are disconnected, everything is written
		if s.temporary {
			how = syscall.SIGQUIT // immediate: nobody will read this again
		}
		err = s.process.stop(how)
	}
	if s.temporary {
		err = errors.Join(err, os.RemoveAll(s.Dir))
	}
	s.warden.dismiss()
	return err
}

// Gone is closed when the server has ended, whoever ended it.
func (s *PostgresServer) Gone() <-chan struct{} { return s.process.gone }

// ErrNotInstalled is why a server could not be started on a machine that does not have it.
var ErrNotInstalled = errors.New("not installed")

// find looks for a server's program on PATH, and where Debian and Homebrew keep servers apart from it.
func find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	for _, place := range []string{
		"/usr/sbin", // which PATH may lack where the user is not root
		"/usr/lib/postgresql/*/bin",
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
	} {
		if found, _ := filepath.Glob(filepath.Join(place, program)); len(found) > 0 {
			return slices.Max(found), nil // the newest: versions have two digits
		}
	}
	return "", fmt.Errorf("%s: %w (Debian: apt-get install postgresql redis-server pgbouncer; "+
		"macOS: brew install postgresql@17 redis pgbouncer)", program, ErrNotInstalled)
}

// onPort calls start with the port, or, when that is 0, with free ones until none is taken in the moment between our
// choice and the server's start.
func onPort(port int, start func(port int) error) error {
	if port != 0 {
		return start(port)
	}
	for try := 1; ; try++ {
		port, err := freePort()
		if err != nil {
			return err
		}
		var ended *startError
		if err = start(port); err == nil || !errors.As(err, &ended) || try == 5 {
			return err
		}
	}
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return listener.Addr().(*net.TCPAddr).Port, listener.Close()
}
