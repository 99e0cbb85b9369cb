package cache

import (
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

//go:embed publish.lua
var publishLua string

//go:embed lease.lua
var leaseLua string

//go:embed commit.lua
var commitLua string

//go:embed extend.lua
var extendLua string

//go:embed fail.lua
var failLua string

//go:embed delete.lua
var deleteLua string

//go:embed register.lua
var registerLua string

// allowOOM lets a script write to a Redis that is full: what it writes is small and must not be refused.
const allowOOM = "#!lua flags=allow-oom\n"

var (
	leaseScript    = redis.NewScript(leaseLua)
	commitScript   = redis.NewScript(publishLua + commitLua)
	extendScript   = redis.NewScript(extendLua)
	failScript     = redis.NewScript(allowOOM + publishLua + failLua)
	deleteScript   = redis.NewScript(allowOOM + publishLua + deleteLua)
	registerScript = redis.NewScript(allowOOM + registerLua)
)

// Scripts returns the Lua scripts of this package by name, so that telemetry can name their calls, and so that a client
// can load them when it connects. Loading is an option: a script that the server does not know is sent when it is
// needed.
func Scripts() map[string]*redis.Script {
	return map[string]*redis.Script{
		"cache.lease": leaseScript, "cache.commit": commitScript, "cache.extend": extendScript,
		"cache.fail": failScript, "cache.delete": deleteScript, "cache.register": registerScript,
	}
}

// LoadScripts is for a client's OnConnect: it loads the scripts in one round-trip. A refusal is no error: a script that
// the server does not know is sent when it is needed.
func LoadScripts(ctx context.Context, conn *redis.Conn) error {
	_, err := conn.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, lua := range []string{
			leaseLua, publishLua + commitLua, extendLua, allowOOM + publishLua + failLua, allowOOM + publishLua + deleteLua,
			allowOOM + registerLua,
		} {
			pipe.ScriptLoad(ctx, lua)
		}
		return nil
	})
	if lostReply(err) {
		return fmt.Errorf("load scripts: %w", err)
	}
	return nil
}

// run runs a script, and once more after a lost connection or a time-out: the server may have run it and only the reply
// was lost. All scripts may be repeated, because they recognise their own token.
func (c *Cache[V]) run(ctx context.Context, script *redis.Script, keys []string, args ...any) *redis.Cmd {
	reply := script.Run(ctx, c.rdb, keys, args...)
	if lostReply(reply.Err()) && ctx.Err() == nil {
		reply = script.Run(ctx, c.rdb, keys, args...)
	}
	return reply
}

// publishing runs a script that ends with a PUBLISH. The first arguments say what and where.
func (c *Cache[V]) publishing(
	ctx context.Context, script *redis.Script, keys []string, what, key string, args ...any,
) *redis.Cmd {
	shard := ""
	if c.shards != nil {
		shard = c.names.shardChannel(key)
	}
	return c.run(ctx, script, keys, append([]any{c.names.channel, shard, c.message(what, key)}, args...)...)
}

// published notes whether the PUBLISH at the end of a script was refused: 1 or 0, or -1 if there was none.
func (c *Cache[V]) published(ctx context.Context, refused int64) {
	if refused < 0 {
		return
	}
	c.reduced.set(ctx, capabilityPublish, refused != 0, errors.New("a script may not PUBLISH"))
}

// lostReply says that it is unknown whether the server has run a command.
func lostReply(err error) bool {
	if err == nil || errors.Is(err, redis.Nil) {
		return false
	}
	_, answered := errors.AsType[redis.Error](err)
	return !answered
}

func unexpected(reply any) error { return fmt.Errorf("unexpected reply %v", reply) }
