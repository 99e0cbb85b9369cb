package telemetry

import (
	"crypto/sha1"
	"encoding/hex"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// command tells Redis commands apart as `INFO commandstats` does, in lower case: get, or client with the detail
// setname. The detail of a script's call is the script's name. Keys and values are no part of it.
type command struct{ name, detail string }

func commandOf(cmd redis.Cmder) command {
	c := command{name: cmd.Name()}
	switch {
	case containers[c.name]:
		c.detail = word(cmd, 1)
	case strings.HasPrefix(c.name, "eval"):
		c.detail = scripts.name(c.name, word(cmd, 1))
	}
	return c
}

// word returns a command's i-th word, 0 being its name, or "".
func word(cmd redis.Cmder, i int) string {
	if args := cmd.Args(); i < len(args) {
		word, _ := args[i].(string)
		return word
	}
	return ""
}

// containers are the commands whose second word says what they do.
var containers = map[string]bool{
	"acl": true, "client": true, "cluster": true, "command": true, "config": true, "function": true, "latency": true,
	"memory": true, "module": true, "object": true, "pubsub": true, "script": true, "slowlog": true, "xgroup": true,
	"xinfo": true,
}

// operation gives the command the names that the semantic conventions want: GET, CLIENT SETNAME.
func (c command) operation() operation {
	name := strings.ToUpper(c.name)
	if !containers[c.name] {
		return operation{name: name, procedure: c.detail}
	}
	return operation{name: strings.TrimSpace(name + " " + strings.ToUpper(c.detail))}
}

// setsUpConnection says whether clients send the command for the sake of the connection or of what they know of the
// cluster, and not because somebody asked for it.
func (c command) setsUpConnection() bool {
	switch c.name {
	case "hello", "auth", "select", "readonly", "client", "command", "cluster":
		return true
	}
	return c.name == "script" && strings.EqualFold(c.detail, "load")
}

// contents is what a pipeline or a batch consists of: the i-th operation, and how often.
type contents struct {
	names  []string
	counts []int64
}

// add counts one more; names are few, and mostly the last one again.
func (c *contents) add(name string) {
	for i := len(c.names) - 1; i >= 0; i-- {
		if c.names[i] == name {
			c.counts[i]++
			return
		}
	}
	c.names, c.counts = append(c.names, name), append(c.counts, 1)
}

// firstFault returns the first command's error that is no miss, else err: what a pipeline itself returns is the first
// error of any kind, so a miss would hide the fault behind it.
func firstFault(cmds []redis.Cmder, err error) error {
	if err != redis.Nil {
		return err
	}
	for _, cmd := range cmds {
		if fault := cmd.Err(); fault != nil && fault != redis.Nil {
			return fault
		}
	}
	return err
}

// RedisScript gives a script the name that its calls carry as db.stored_procedure.name, in spans and in metrics. Call
// it where the program is wired, before the script is used. A script that was given no name has none.
func RedisScript(name string, script *redis.Script) { scripts.add(name, script.Hash()) }

// scripts are the named ones of this process, known by the hash of their text, which is the same on every server.
var scripts = scriptNames{named: map[string]string{}}

type scriptNames struct {
	mu    sync.RWMutex
	named map[string]string // by SHA-1 in hexadecimal
}

func (s *scriptNames) add(name, hash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.named[hash] = name
}

// name looks a script up by what its command carries: EVALSHA a hash, EVAL the text.
func (s *scriptNames) name(command, carried string) string {
	if !strings.HasPrefix(command, "evalsha") {
		sum := sha1.Sum([]byte(carried))
		carried = hex.EncodeToString(sum[:])
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.named[carried]
}
