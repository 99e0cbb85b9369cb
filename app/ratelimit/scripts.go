package ratelimit

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed check.lua
var checkLua string

//go:embed heartbeat.lua
var heartbeatLua string

//go:embed reset.lua
var resetLua string

var (
	checkScript     = redis.NewScript(checkLua)
	heartbeatScript = redis.NewScript(heartbeatLua)
	resetScript     = redis.NewScript(resetLua)
)

// Scripts returns the Lua scripts of this package by name, so that telemetry can name their calls.
func Scripts() map[string]*redis.Script {
	return map[string]*redis.Script{
		"ratelimit.check": checkScript, "ratelimit.heartbeat": heartbeatScript, "ratelimit.reset": resetScript,
	}
}

// LoadScripts is for a client's OnConnect: it gives the server the scripts in one round-trip, so that no check has to
// send one whole. A refusal by the server is not an error, because a script that the server does not have is sent
// whole: a user without the permission to load scripts still has a working connection.
func LoadScripts(ctx context.Context, conn *redis.Conn) error {
	_, err := conn.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, lua := range []string{checkLua, heartbeatLua, resetLua} {
			pipe.ScriptLoad(ctx, lua)
		}
		return nil
	})
	if refusal := redis.Error(nil); err != nil && !errors.As(err, &refusal) {
		return fmt.Errorf("rate limit: load scripts: %w", err)
	}
	return nil
}

var errNoVerdict = errors.New("rate limit: Redis answered with something else than verdicts")

// runCheck asks Redis, in one round-trip.
func (l *Limiter) runCheck(ctx context.Context, q question) (Decision, error) {
	keys := make([]string, len(q.policies))
	args := append(make([]any, 0, 2+3*len(q.policies)), l.fixedTime(), q.cost)
	for i, p := range q.policies {
		keys[i] = l.names.spent(q.caller, p.suffix)
		args = append(args, p.args[:]...)
	}
	reply, err := checkScript.Run(ctx, l.rdb, keys, args...).Int64Slice()
	if err != nil {
		return Decision{}, err
	}
	if len(reply) != 3*len(q.policies) {
		return Decision{}, errNoVerdict
	}
	d := Decision{Allowed: true, Source: FromRedis, Verdicts: make([]Verdict, len(q.policies))}
	for i, p := range q.policies {
		d.Verdicts[i] = Verdict{
			Policy: p.settings,
			Wait:   microseconds(reply[3*i]), Remaining: reply[3*i+1], Reset: microseconds(reply[3*i+2]),
		}
		d.Allowed = d.Allowed && d.Verdicts[i].Wait == 0
	}
	return d, nil
}

// fixedTime is what a test has set the clock to, in µs. It is 0 outside of tests: the only clock that all replicas
// share is Redis's own.
func (l *Limiter) fixedTime() int64 {
	if l.options.clock == nil {
		return 0
	}
	return l.options.clock().UnixMicro()
}

func microseconds(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
