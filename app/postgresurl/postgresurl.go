// Package postgresurl reads where Postgres is from one connection string, as hosted Postgres hands it out: a URL or
// `key=value` pairs, with the parameters of libpq, of pgx (default_query_exec_mode) and of its pool (pool_max_conns).
// Every command reads it here, so that none understands another dialect.
package postgresurl

import (
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

// Connection configures a single connection, without a pool.
func Connection(text string) (*pgx.ConnConfig, error) {
	a, err := Parse(text)
	if err != nil {
		return nil, err
	}
	return a.Pool.ConnConfig, nil
}

const unencoded = "it is no valid URL; special characters in a user or a password must be percent-encoded, " +
	"as in %2F for /"

// misplaced says that the URL is valid and means something else than was meant: an unencoded character of the password
// has ended it, and the rest of the password is taken for a path or a fragment, which messages would show.
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
