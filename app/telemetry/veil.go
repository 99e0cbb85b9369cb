package telemetry

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// veiledError stands in for an error while it passes redisotel, which writes the text of every error into the span and
// offers no choice. The caller, further out, is given back the real one.
type veiledError struct {
	fault
	real error
}

func (e veiledError) Error() string { return e.kind }

// veil hides the text of an error. A miss is shown as it is, because redisotel knows it for what it is.
func veil(err error) error {
	f, _ := redisFault(err)
	if f.kind == "" {
		return err
	}
	return veiledError{f, err}
}

// unveilErrors is the outermost hook.
type unveilErrors struct{}

// DialHook leaves dials alone: their errors tell addresses only.
func (unveilErrors) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook gives back the error of a command.
func (unveilErrors) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { return unveil(next(ctx, cmd)) }
}

// ProcessPipelineHook gives back the error of a pipeline.
func (unveilErrors) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { return unveil(next(ctx, cmds)) }
}

func unveil(err error) error {
	if veiled, ok := err.(veiledError); ok { //nolint:errorlint // ours is never wrapped on its way
		return veiled.real
	}
	return err
}
