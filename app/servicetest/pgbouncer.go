package servicetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// PgBouncer starts a private PgBouncer in transaction mode before the server of the database, and returns the
// database's URL through it. It has two connections to the server, so that a session's state is soon another client's.
// Settings are added to those of its section [pgbouncer].
func PgBouncer(t testing.TB, databaseURL string, settings map[string]string) (throughIt string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require(t, err)
	program, err := find("pgbouncer")
	require(t, err)
	dir, _, err := directory("", "pgbouncer")
	require(t, err)
	guard, err := post("KILL", dir)
	require(t, err)
	var p *process
	t.Cleanup(func() {
		var stopped error
		if p != nil {
			stopped = p.stop(syscall.SIGTERM)
		}
		require(t, errors.Join(stopped, os.RemoveAll(dir)))
		guard.dismiss()
	})
	users := filepath.Join(dir, "users")
	require(t, owned(users, os.WriteFile(users, []byte(`"postgres" ""`+"\n"), 0o600)))
	err = onPort(0, func(port int) error {
		all := map[string]string{
			"listen_addr": "127.0.0.1", "listen_port": strconv.Itoa(port), "unix_socket_dir": "", "auth_type": "trust",
			"auth_file": users, "pool_mode": "transaction", "default_pool_size": "2", "admin_users": "postgres",
		}
		maps.Copy(all, settings)
		var ini strings.Builder
		fmt.Fprintf(&ini, "[databases]\n* = host=127.0.0.1 port=%s\n[pgbouncer]\n", u.Port())
		for _, name := range slices.Sorted(maps.Keys(all)) {
			fmt.Fprintf(&ini, "%s = %s\n", name, all[name])
		}
		path := filepath.Join(dir, "pgbouncer.ini")
		if err := owned(path, os.WriteFile(path, []byte(ini.String()), 0o600)); err != nil {
			return err
		}
		if p, err = start(guard, dir, nil, program, path); err != nil {
			return err
		}
		u.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		return p.await(t.Context(), func(ctx context.Context) error {
			conn, err := pgx.Connect(ctx, u.String())
			if err != nil {
				return err
			}
			return conn.Close(ctx)
		})
	})
	require(t, err)
	return u.String()
}
