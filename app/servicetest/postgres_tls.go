package servicetest

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// PostgresTLS starts a private Postgres as hosted ones are, and returns the URL of an empty database in it: over TLS,
// and with a password that is proved by SCRAM with channel binding.
func PostgresTLS(t testing.TB) (databaseURL string) {
	t.Helper()
	dir, _, err := directory("", "postgres-tls")
	require(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	certificate := filepath.Join(dir, "certificate.pem")
	_, err = writeCertificate(certificate, keyBeside(certificate))
	require(t, err)
	server, err := StartPostgres(t.Context(), Options{Dir: dir, Settings: map[string]string{
		"fsync": "off", "ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": keyBeside(certificate),
	}})
	require(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	const password = "a/pass@word"
	for _, command := range []string{
		"CREATE ROLE hosted LOGIN CREATEDB PASSWORD '" + password + "'", "CREATE DATABASE hosted OWNER hosted",
	} {
		require(t, server.administer(t.Context(), command))
	}
	require(t, server.demand(t.Context(), "hostssl all hosted all scram-sha-256\nhost all hosted all reject\n"))
	u := url.URL{
		Scheme: "postgresql", User: url.UserPassword("hosted", password), Path: "/hosted",
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port)),
		RawQuery: "sslmode=require&channel_binding=require",
	}
	return u.String()
}

// demand puts rules before those of pg_hba.conf.
func (s *PostgresServer) demand(ctx context.Context, rules string) error {
	file := filepath.Join(s.Dir, "data", "pg_hba.conf")
	earlier, err := os.ReadFile(file) //nolint:gosec // our own
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(file, append([]byte(rules), earlier...), 0o600),
		s.administer(ctx, "SELECT pg_reload_conf()"))
}
