package buffer

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/redis/go-redis/v9"
)

//go:embed add.lua
var addLua string

//go:embed cut.lua
var cutLua string

//go:embed claim.lua
var claimLua string

//go:embed extend.lua
var extendLua string

//go:embed acknowledge.lua
var acknowledgeLua string

//go:embed forget.lua
var forgetLua string

var (
	addScript         = redis.NewScript(addLua)
	cutScript         = redis.NewScript(cutLua)
	claimScript       = redis.NewScript(claimLua)
	extendScript      = redis.NewScript(extendLua)
	acknowledgeScript = redis.NewScript(acknowledgeLua)
	forgetScript      = redis.NewScript(forgetLua)
)

// Scripts returns the Lua scripts of this package by name, so that telemetry can name their calls.
func Scripts() map[string]*redis.Script {
	return map[string]*redis.Script{
		"buffer.add": addScript, "buffer.cut": cutScript, "buffer.claim": claimScript,
		"buffer.extend": extendScript, "buffer.acknowledge": acknowledgeScript,
		"buffer.forget": forgetScript,
	}
}

// LoadScripts is for a client's OnConnect: it gives the server the scripts in one round-trip, so that no call has to
// send one whole, which in a pipeline it could not.
func LoadScripts(ctx context.Context, conn *redis.Conn) error {
	_, err := conn.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, lua := range []string{addLua, cutLua, claimLua, extendLua, acknowledgeLua, forgetLua} {
			pipe.ScriptLoad(ctx, lua)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load scripts: %w", err)
	}
	return nil
}
