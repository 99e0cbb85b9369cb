package cache_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest"
)

// record is what Redis itself says that it did: it follows MONITOR, which names every command in order of execution,
// those inside scripts too, and holds each to the rules of the algorithm. So what replicas believe does not matter.
type record struct {
	scripts map[string]string // names by hash

	mu     sync.Mutex
	keys   map[string]*history
	grants []*grant
	broken []string // the rules that were, and how
	writes int
	// script is the one that runs now, and caller the lease value that it was called with.
	script, caller string
	ended          chan struct{}
}

// history is what has happened to one key since Redis last forgot everything.
type history struct {
	newest int64 // created-at of what is stored
	lease  *grant
}

// grant is a lease that was given.
type grant struct {
	key, value string
	// from and until are Unix nanoseconds: when it was given, and when it was released, lost or left to expire.
	from, until int64
}

// precision is how exactly Redis and we agree on when a lease expires.
const precision = 5 * time.Millisecond

// watch begins a record.
func watch(t *testing.T, server *servicetest.RedisServer) *record {
	t.Helper()
	r := &record{scripts: map[string]string{}, keys: map[string]*history{}}
	for name, script := range cache.Scripts() {
		r.scripts[script.Hash()] = name
	}
	r.attach(t, server)
	return r
}

// attach follows a server until it ends. After a restart it is called again; what was done in between is not recorded.
func (r *record) attach(t *testing.T, server *servicetest.RedisServer) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", server.Addr(), time.Minute)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = fmt.Fprint(conn, "MONITOR\r\n")
	require.NoError(t, err)
	lines := bufio.NewReader(conn)
	answer, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "+OK\r\n", answer)
	r.ended = make(chan struct{})
	go func() {
		defer close(r.ended)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			r.read(strings.TrimRight(line[1:], "\r\n"))
		}
	}()
}

// read takes a line such as 1795000000.123456 [0 lua] "SET" cache.LeaseKey("k") "…" "PX" "3000".
func (r *record) read(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	stamp, rest, _ := strings.Cut(line, " ")
	seconds, micros, _ := strings.Cut(stamp, ".")
	at := (number(seconds)*1e6 + number(micros)) * 1e3
	source, rest, _ := strings.Cut(rest, "] ")
	words := unquoted(rest)
	switch {
	case strings.HasSuffix(source, " lua"):
		r.done(at, words)
	case strings.EqualFold(words[0], "flushall"):
		r.forgotten(at)
	case strings.EqualFold(words[0], "evalsha"):
		r.called(words[1], words)
	case strings.EqualFold(words[0], "eval"): // after a restart, by who was told before that it is not there
		r.called(redis.NewScript(words[1]).Hash(), words)
	}
}

func (r *record) called(hash string, words []string) {
	keys := int(number(words[2]))
	r.script = r.scripts[hash]
	r.caller = words[3+keys]
	if r.script == "cache.commit" || r.script == "cache.fail" { // after the channels and the message
		r.caller = words[3+keys+3]
	}
}

// forgot is told when Redis was flushed or restarted: it has lost what the rules are about.
func (r *record) forgot() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgotten(time.Now().UnixNano())
}

func (r *record) forgotten(at int64) {
	for _, h := range r.keys {
		h.release(at)
	}
	clear(r.keys)
}

// done holds a command inside a script to the rules.
func (r *record) done(at int64, words []string) {
	what, key := "", ""
	if parts := strings.Split(words[min(1, len(words)-1)], ":"); len(parts) == 5 { // namespace, kind, name, version, tag
		what, key = parts[1], strings.Trim(parts[4], "{}")
	}
	if what != "cache" && what != "lease" {
		return
	}
	h := r.keys[key]
	if h == nil {
		h = &history{}
		r.keys[key] = h
	}
	holds := h.lease != nil && at < h.lease.until-int64(precision)
	mine := holds && h.lease.value == r.caller
	switch command := strings.ToUpper(words[0]) + " " + what; command {
	case "SET cache":
		r.writes++
		created, tombstone := int64(binary.BigEndian.Uint64([]byte(words[2][2:10]))), words[2][1] == 'T'
		if created < h.newest || created == h.newest && !tombstone {
			r.break_(at, fmt.Sprintf("%s: overwrote what was begun at %d by what was begun at %d", key, h.newest, created))
		}
		h.newest = created
	case "SET lease":
		switch {
		case holds && !mine:
			r.break_(at, fmt.Sprintf("%s: %s took the lease of %s from %q", key, r.script, h.lease.value, r.caller))
		case strings.HasPrefix(words[2], "!"): // a cooldown
			h.release(at)
		case mine: // asked again
			h.lease.until = at + number(words[4])*1e6
		default:
			h.release(at)
			h.lease = &grant{key: key, value: words[2], from: at, until: at + number(words[4])*1e6}
			r.grants = append(r.grants, h.lease)
		}
	case "PEXPIRE lease":
		if h.lease != nil && h.lease.value == r.caller {
			h.lease.until = at + number(words[2])*1e6
		}
	case "DEL lease":
		if holds && !mine && r.script != "cache.delete" {
			r.break_(at, fmt.Sprintf("%s: %s released the lease of %s for %q", key, r.script, h.lease.value, r.caller))
		}
		h.release(at)
	}
}

func (h *history) release(at int64) {
	if h.lease != nil {
		h.lease.until = min(h.lease.until, at)
		h.lease = nil
	}
}

func (r *record) break_(at int64, how string) {
	r.broken = append(r.broken, fmt.Sprintf("%s %s", time.Unix(0, at).Format("05.000000"), how))
}

func unquoted(rest string) (words []string) {
	for rest != "" {
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			panic(fmt.Sprintf("%v: %q", err, rest)) // the format is Redis's
		}
		word, _ := strconv.Unquote(quoted)
		words, rest = append(words, word), strings.TrimPrefix(rest[len(quoted):], " ")
	}
	return words
}

func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic(err) // likewise
	}
	return n
}
