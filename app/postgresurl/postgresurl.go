// Package postgresurl reads where Postgres is from one connection string, as hosted Postgres hands it out: a URL or
// `key=value` pairs, with the parameters of libpq, of pgx (default_query_exec_mode) and of its pool (pool_max_conns).
// Every command reads it here, so that none understands another dialect.
package postgresurl

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Forms are the connection strings that Parse accepts, for error messages.
const Forms = "postgres://user:password@host:5432/database?sslmode=require, or host=... user=... dbname=..."

// Address is a connection string that was understood.
type Address struct {
	// Pool configures a pool. Its ConnConfig is that of a single connection.
	Pool *pgxpool.Config

	parameters map[string]bool
}

// Has says whether the connection string sets a parameter.
func (a Address) Has(parameter string) bool { return a.parameters[parameter] }

// Parse reads a connection string. White space around it is ignored: secrets are often files that end in a new line.
// The error says what is wrong, and holds no part of the string that may belong to the password.
func Parse(text string) (Address, error) {
	text = strings.TrimSpace(text)
	if isURL(text) {
		if u, err := url.Parse(text); err != nil || misplaced(u) {
			return Address{}, refused(unencoded)
		}
	}
	config, err := pgxpool.ParseConfig(text)
	if err != nil {
		return Address{}, refused(harmless(err, text))
	}
	return Address{config, parametersOf(text)}, nil
}

func refused(reason string) error { return fmt.Errorf("%s; accepted are %s", reason, Forms) }

// Name names the sessions in pg_stat_activity, unless the connection string does.
func Name(c *pgx.ConnConfig, name string) {
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = name
	}
}

// Connection configures a single connection, without a pool, whose session has the name unless the connection string
// gives one.
func Connection(text, name string) (*pgx.ConnConfig, error) {
	a, err := Parse(text)
	if err != nil {
		return nil, err
	}
	Name(a.Pool.ConnConfig, name)
	return a.Pool.ConnConfig, nil
}

// Connect opens such a connection.
func Connect(ctx context.Context, text, name string) (*pgx.Conn, error) {
	c, err := Connection(text, name)
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, c)
}

const unencoded = "it is no valid URL; special characters in a user or a password must be percent-encoded, " +
	"as in %2F for /"

// misplaced says that a part of the password stands in the path, the query or the fragment of the URL, because a
// character of it was not encoded. The URL is valid then, and messages would show that part.
func misplaced(u *url.URL) bool {
	query, _, _ := strings.Cut(u.RawQuery, "=")
	return u.Fragment != "" || u.User == nil && strings.Contains(u.Path+query, "@")
}

// harmless says what is wrong. pgx quotes the connection string and parts of it, so its words are only repeated where
// the password is certainly not among them.
func harmless(err error, text string) string {
	if !isURL(text) {
		return "it is no valid connection string"
	}
	u, invalid := url.Parse(text)
	if invalid != nil || strings.Count(text, "@") > 1 || u.Query().Has("password") {
		return unencoded
	}
	if parse, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		if _, reason, found := strings.Cut(parse.Error(), "`: "); found {
			return reason
		}
	}
	for parameter := range u.Query() {
		if strings.Contains(err.Error(), parameter) {
			return "the parameter " + parameter + " has a value that is not understood"
		}
	}
	return "it is no valid connection string"
}

func isURL(text string) bool {
	return strings.HasPrefix(text, "postgres://") || strings.HasPrefix(text, "postgresql://")
}

func parametersOf(text string) map[string]bool {
	set := map[string]bool{}
	if isURL(text) {
		if u, err := url.Parse(text); err == nil {
			for name := range u.Query() {
				set[name] = true
			}
		}
		return set
	}
	for _, pair := range strings.Fields(text) {
		if name, _, ok := strings.Cut(pair, "="); ok {
			set[name] = true
		}
	}
	return set
}
