package audit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// monitor counts the commands that scripts call: Redis's MONITOR shows every command with who sent it, and for those it
// says `lua`. It reads the stream by itself, because go-redis's reader never rests while it waits.
type monitor struct {
	conn net.Conn

	mu        sync.Mutex
	inScripts map[string]int64
	marks     map[string]map[string]int64 // by mark: what was counted when it came by
	changed   chan struct{}               // closed and replaced with each mark
	fault     error                       // why there is no more to come
}

func startMonitor(ctx context.Context, o *redis.Options) (*monitor, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, o.Network, o.Addr)
	if err != nil {
		return nil, err
	}
	if o.TLSConfig != nil {
		conn = tls.Client(conn, o.TLSConfig)
	}
	m := &monitor{conn: conn, inScripts: map[string]int64{}, marks: map[string]map[string]int64{},
		changed: make(chan struct{})}
	greeting := "MONITOR\r\n"
	if o.Password != "" {
		greeting = strings.TrimSpace("AUTH "+o.Username) + " " + o.Password + "\r\n" + greeting
	}
	if _, err := io.WriteString(conn, greeting); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go m.follow()
	return m, nil
}

func (m *monitor) close() { _ = m.conn.Close() }

// upTo returns what scripts have called until now.
func (m *monitor) upTo(ctx context.Context, client *redis.Client) (map[string]int64, error) {
	mark := rand.Text()
	if err := client.Echo(ctx, mark).Err(); err != nil {
		return nil, err
	}
	for {
		m.mu.Lock()
		counts, passed := m.marks[mark]
		changed, fault := m.changed, m.fault
		m.mu.Unlock()
		switch {
		case passed:
			return counts, nil
		case fault != nil:
			return nil, fmt.Errorf("MONITOR: %w", fault)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// follow reads lines like `+1339518083.107412 [0 lua] "get" "k"`.
func (m *monitor) follow() {
	lines := bufio.NewReader(m.conn)
	for {
		line, err := lines.ReadSlice('\n')
		whole := err == nil
		if whole || errors.Is(err, bufio.ErrBufferFull) { // what matters is at the beginning
			m.saw(line)
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = lines.ReadSlice('\n')
		}
		if err != nil {
			m.ended(err)
			return
		}
	}
}

func (m *monitor) saw(line []byte) {
	if line[0] == '-' {
		m.ended(errors.New(string(bytes.TrimSpace(line[1:]))))
		return
	}
	_, from, _ := bytes.Cut(line, []byte(" ["))
	sender, words, found := bytes.Cut(from, []byte(`] "`))
	if !found {
		return // the +OK at the beginning
	}
	first, rest, _ := bytes.Cut(words, []byte(`"`))
	m.mu.Lock()
	defer m.mu.Unlock()
	switch name := strings.ToUpper(string(first)); {
	case bytes.HasSuffix(sender, []byte(" lua")):
		m.inScripts[name]++
	case name == "ECHO":
		mark := string(bytes.Trim(rest, "\" \r\n"))
		m.marks[mark] = maps.Clone(m.inScripts)
		close(m.changed)
		m.changed = make(chan struct{})
	}
}

func (m *monitor) ended(fault error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fault == nil {
		m.fault = fault
		close(m.changed)
		m.changed = make(chan struct{})
	}
}
