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

//go:embed release.lua
var releaseLua string

//go:embed acknowledge.lua
var acknowledgeLua string

//go:embed register.lua
var registerLua string

//go:embed list.lua
var listLua string

//go:embed forget.lua
var forgetLua string

//go:embed discard.lua
var discardLua string

var (
	addScript         = redis.NewScript(addLua)
	cutScript         = redis.NewScript(cutLua)
	claimScript       = redis.NewScript(claimLua)
	extendScript      = redis.NewScript(extendLua)
	releaseScript     = redis.NewScript(releaseLua)
	acknowledgeScript = redis.NewScript(acknowledgeLua)
	registerScript    = redis.NewScript(registerLua)
	listScript        = redis.NewScript(listLua)
	forgetScript      = redis.NewScript(forgetLua)
	discardScript     = redis.NewScript(discardLua)
)

// Scripts returns the Lua scripts of this package by name, so that telemetry can name their calls, and so that a client
// can load them when it connects. Loading is an option: a script that the server does not know is sent when it is
// needed.
func Scripts() map[string]*redis.Script {
	return map[string]*redis.Script{
		"buffer.add": addScript, "buffer.cut": cutScript, "buffer.claim": claimScript,
		"buffer.extend": extendScript, "buffer.release": releaseScript, "buffer.acknowledge": acknowledgeScript,
		"buffer.register": registerScript, "buffer.list": listScript, "buffer.forget": forgetScript,
		"buffer.discard": discardScript,
	}
}

// LoadScripts is for a client's OnConnect: it loads the scripts in one round-trip.
func LoadScripts(ctx context.Context, conn *redis.Conn) error {
	_, err := conn.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, lua := range []string{
			addLua, cutLua, claimLua, extendLua, releaseLua, acknowledgeLua, registerLua, listLua, forgetLua,
			discardLua,
		} {
			pipe.ScriptLoad(ctx, lua)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load scripts: %w", err)
	}
	return nil
}
