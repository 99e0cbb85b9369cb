package api

import (
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"
)

// fromStore returns the answer to an error of Postgres or Redis that another try, a little later, may not meet: 503.
// What it does not know is a fault of ours.
func fromStore(err error) (problem, bool) {
	unavailable := func(title string) (problem, bool) {
		return problem{Status: http.StatusServiceUnavailable, Title: title, retryAfterSeconds: 2}, true
	}
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case schemaIsMissing(refused.Code):
			return unavailable("Database not ready")
		case passes(refused.Code):
			return unavailable("Database unavailable")
		}
		return problem{}, false
	}
	if reply, ok := errors.AsType[redis.Error](err); ok && !errors.Is(err, redis.Nil) {
		if refuses(reply.Error()) {
			return unavailable("Redis unavailable")
		}
		return problem{}, false
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return unavailable("Database unavailable")
	}
	if errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrClosed) {
		return unavailable("Redis unavailable")
	}
	_, broken := errors.AsType[net.Error](err)
	if broken || pgconn.SafeToRetry(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) {
		return unavailable("Store unavailable")
	}
	return problem{}, false
}

// passes says whether a SQLSTATE is of the moment: connections, resources, locks, an operator, a server that is
// read-only after a failover, or a statement that took too long.
func passes(code string) bool {
	for _, class := range []string{"08", "40", "53", "55", "57", "58"} {
		if strings.HasPrefix(code, class) {
			return true
		}
	}
	return code == "25006" // read_only_sql_transaction
}

// schemaIsMissing says whether the database lacks a table, a column or a function of this build.
func schemaIsMissing(code string) bool {
	return slices.Contains([]string{"42P01", "42703", "42883", "3F000"}, code)
}

// refuses says whether Redis answers so because of its state, and not because of the command.
func refuses(reply string) bool {
	word, _, _ := strings.Cut(reply, " ")
	return slices.Contains([]string{
		"OOM", "READONLY", "LOADING", "MISCONF", "BUSY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN", "MOVED",
		"ASK",
		"NOAUTH", "WRONGPASS", "NOPERM", "UNKILLABLE",
	}, word) || strings.HasPrefix(reply, "ERR max number of clients")
}
