package telemetry

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// fault is what telemetry says of an error. The text is left out: servers quote arguments and parameters in it. The
// zero value is success.
type fault struct {
	// kind becomes error.type: the server's code, or canceled, timeout, pool_timeout, or the error's Go type.
	kind string
	// code is the server's: WRONGTYPE, 23505. Empty where the server did not answer.
	code string
}

// describe marks a span as failed, if there was a fault.
func (f fault) describe(span trace.Span) {
	if f.kind == "" {
		return
	}
	attributes := []attribute.KeyValue{semconv.ErrorTypeKey.String(f.kind)}
	span.SetAttributes(appendKnown(attributes, semconv.DBResponseStatusCodeKey, f.code)...)
	span.SetStatus(codes.Error, f.kind)
}

// redisFault tells a failed command from a miss: redis.Nil is an answer.
func redisFault(err error) (f fault, miss bool) {
	if err == nil || err == redis.Nil { //nolint:errorlint // go-redis does not wrap it, and this is the hit path
		return fault{}, err != nil
	}
	var reply redis.Error
	switch {
	case errors.Is(err, redis.TxFailedErr):
		return fault{kind: "transaction_failed"}, false // a watched key has changed
	case errors.Is(err, redis.ErrPoolTimeout):
		return fault{kind: "pool_timeout"}, false
	case errors.As(err, &reply):
		code := replyCode(reply.Error())
		return fault{kind: code, code: code}, false
	}
	return fault{kind: kindOf(err)}, false
}

// replyCode is the word in capitals that starts an error reply. Scripts may answer without one.
func replyCode(reply string) string {
	code, _, _ := strings.Cut(reply, " ")
	if code == "" || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
		return "ERR"
	}
	return code
}

// neverSent says whether the command had failed before it was written: no connection to be had, no time left to wait
// for one, or none to write. Once written, a context that ends shows as a time-out of reading; so does a new
// connection's greeting that was not answered, which cannot be told from it.
func neverSent(err error) bool {
	var network *net.OpError
	return errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrClosed) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &network) && (network.Op == "dial" || network.Op == "write")
}

// postgresFault reads the SQLSTATE.
func postgresFault(err error) fault {
	var reply *pgconn.PgError
	switch {
	case err == nil:
		return fault{}
	case errors.As(err, &reply):
		return fault{kind: reply.Code, code: reply.Code}
	}
	return fault{kind: kindOf(err)}
}

// kindOf names an error that is not a server's answer.
func kindOf(err error) string {
	var network net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "timeout"
	}
	return semconv.ErrorType(err).Value.AsString()
}
