package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"

	"github.com/redis/go-redis/v9"

	"nervous/app/buffer"
	"nervous/app/cache"
	"nervous/app/ratelimit"
	"nervous/app/redisurl"
	"nervous/app/telemetry"
)

// openRedis returns a client of what REDIS_URL names: one server, Sentinel or a Cluster. It connects to nothing yet.
func openRedis(r redisStore) (redis.UniversalClient, error) {
	address, err := redisurl.Parse(r.URL)
	if err != nil {
		return nil, errors.New("REDIS_URL: " + err.Error())
	}
	scripts := mechanismScripts()
	for name, script := range scripts {
		telemetry.RedisScript(name, script)
	}
	prepare := loadScripts(scripts)
	switch {
	case address.Cluster != nil:
		o := address.Cluster
		o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.OnConnect = r.Timeout, r.Timeout, r.Timeout, prepare
		telemetry.RedisOptions(o)
	case address.Sentinel != nil:
		o := address.Sentinel
		o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.OnConnect = r.Timeout, r.Timeout, r.Timeout, prepare
		telemetry.RedisOptions(o)
	default:
		o := address.Server
		o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.OnConnect = r.Timeout, r.Timeout, r.Timeout, prepare
		telemetry.RedisOptions(o)
	}
	rdb := address.Client()
	followFailovers(rdb)
	return rdb, errors.Join(telemetry.Redis(rdb), telemetry.ObserveRedisPool(rdb))
}

// mechanismScripts are the Lua scripts of all mechanisms, by name.
func mechanismScripts() map[string]*redis.Script {
	all := map[string]*redis.Script{}
	for _, scripts := range []map[string]*redis.Script{cache.Scripts(), buffer.Scripts(), ratelimit.Scripts()} {
		maps.Copy(all, scripts)
	}
	return all
}

// loadScripts gives the server the scripts when a connection is new, in one round-trip, so that no call has to send one
// whole. A server that refuses them is used all the same: a call that finds no script sends it (EVAL).
func loadScripts(scripts map[string]*redis.Script) func(context.Context, *redis.Conn) error {
	var texts []string
	for _, script := range scripts {
		texts = append(texts, textOf(script))
	}
	var once sync.Once
	return func(ctx context.Context, conn *redis.Conn) error {
		// The connection serves others after this caller, so its deadline must not end the connection. REDIS_TIMEOUT bounds
		// the round-trip.
		ctx = context.WithoutCancel(ctx)
		loaded, err := conn.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for _, text := range texts {
				pipe.ScriptLoad(ctx, text)
			}
			return nil
		})
		if err == nil {
			return nil
		}
		for _, cmd := range loaded {
			var refusal redis.Error
			switch err := cmd.Err(); {
			case err == nil:
			case !errors.As(err, &refusal):
				return err // the answers that are missing would be taken for those of later commands
			case redis.HasErrorPrefix(err, "NOPERM"):
				once.Do(func() {
					slog.WarnContext(ctx, "Redis refuses SCRIPT LOAD: scripts are sent whole with a call that finds them "+
						"missing. Permit script|load to this user to save that", "error", err)
				})
			}
		}
		return nil
	}
}

// textOf returns a script's text, which go-redis gives only to what runs it.
func textOf(script *redis.Script) string {
	var r scriptReader
	script.Eval(context.Background(), &r, nil)
	return r.text
}

type scriptReader struct {
	redis.Scripter
	text string
}

// Eval keeps the text and runs nothing.
func (r *scriptReader) Eval(ctx context.Context, text string, _ []string, _ ...any) *redis.Cmd {
	r.text = text
	return redis.NewCmd(ctx)
}
