package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/trace"
)

// logging is where log records go: always to the local writer, and to OTLP once alsoTo was called.
type logging struct {
	local slog.Handler
	level slog.Leveler
}

// startLogging makes slog's default logger write JSON that carries trace ids, and brings the libraries that have
// loggers of their own to it.
func startLogging(cfg Config) logging {
	level := cmp.Or[slog.Leveler](cfg.LogLevel, slog.LevelInfo)
	writer := cmp.Or[io.Writer](cfg.LogWriter, io.Discard)
	l := logging{local: traceIDs{slog.NewJSONHandler(writer, &slog.HandlerOptions{Level: level})}, level: level}
	slog.SetDefault(slog.New(l.local))

	// What OpenTelemetry says of itself stays local: that logs could not be exported is no news to export.
	own := slog.New(l.local)
	failures := &occasionally{every: time.Minute}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		if held, ok := failures.now(); ok {
			own.Warn("telemetry is being lost", "error", err, "held_back", held)
		}
	}))
	otel.SetLogger(logr.FromSlogHandler(l.local))
	redis.SetLogger(&redisLogger{limit: occasionally{every: 10 * time.Second}})
	return l
}

// alsoTo sends the records of slog's default logger to OTLP too.
func (l logging) alsoTo(provider log.LoggerProvider) {
	bridge := otelslog.NewHandler(scope, otelslog.WithLoggerProvider(provider))
	slog.SetDefault(slog.New(slog.NewMultiHandler(l.local, atLeast{l.level, bridge})))
}

// traceIDs adds the ids of the context's span to each record, so that a line of the log leads to its trace. (The bridge
// to OTLP has fields of its own for them.)
type traceIDs struct{ slog.Handler }

func (h traceIDs) Handle(ctx context.Context, record slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		record = record.Clone()
		record.AddAttrs(
			slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, record)
}

func (h traceIDs) WithAttrs(attrs []slog.Attr) slog.Handler {
	return traceIDs{h.Handler.WithAttrs(attrs)}
}
func (h traceIDs) WithGroup(name string) slog.Handler { return traceIDs{h.Handler.WithGroup(name)} }

// atLeast gives a level to a handler that has none.
type atLeast struct {
	slog.Leveler
	slog.Handler
}

func (h atLeast) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.Level() && h.Handler.Enabled(ctx, level)
}

func (h atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeast{h.Leveler, h.Handler.WithAttrs(attrs)}
}
func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{h.Leveler, h.Handler.WithGroup(name)}
}

// redisLogger brings go-redis's own log lines, which otherwise go to standard error, one for each failed dial.
type redisLogger struct{ limit occasionally }

func (l *redisLogger) Printf(ctx context.Context, format string, values ...any) {
	if held, ok := l.limit.now(); ok {
		slog.WarnContext(ctx, fmt.Sprintf(format, values...), "held_back", held)
	}
}

// occasionally lets the first through and then at most one in each interval: a backend that is away must not also fill
// the disk.
type occasionally struct {
	every time.Duration

	mu   sync.Mutex
	next time.Time
	held int
}

// now says whether one may pass, and how many were held back since the last that did.
func (o *occasionally) now() (held int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Now().Before(o.next) {
		o.held++
		return 0, false
	}
	held, o.held, o.next = o.held, 0, time.Now().Add(o.every)
	return held, true
}
