package audit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// monitor counts the commands that scripts call, and those of each client: Redis's MONITOR shows every command with its
// sender, which for a script is `lua`. It reads the stream by itself, because go-redis's reader never rests while it
// waits.
type monitor struct {
	conn net.Conn

	mu      sync.Mutex
	seen    seen
	marks   map[string]seen // by mark: the counts when MONITOR showed it
	changed chan struct{}   // closed and replaced with each mark
	fault   error           // why there is no more to come
}

// seen are counts by command; of clients, by their address first.
type seen struct {
	inScripts map[string]int64
	bySender  map[string]map[string]int64
}

func (s seen) clone() seen {
	c := seen{maps.Clone(s.inScripts), map[string]map[string]int64{}}
	for sender, counts := range s.bySender {
		c.bySender[sender] = maps.Clone(counts)
	}
	return c
}

func startMonitor(ctx context.Context, o *redis.Options) (*monitor, error) {
	mine := *o
	if mine.DialTimeout <= 0 {
		mine.DialTimeout = 5 * time.Second
	}
	conn, err := redis.NewDialer(&mine)(ctx, o.Network, o.Addr)
	if err != nil {
		return nil, err
	}
	m := &monitor{
		conn: conn, seen: seen{map[string]int64{}, map[string]map[string]int64{}}, marks: map[string]seen{},
		changed: make(chan struct{}),
	}
	lines := bufio.NewReader(conn)
	if err := greet(ctx, conn, lines, o); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go m.follow(lines)
	return m, nil
}

// greet returns once the server has begun to tell.
func greet(ctx context.Context, conn net.Conn, lines *bufio.Reader, o *redis.Options) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	requests := []string{asRequest("MONITOR")}
	switch {
	case o.Username != "":
		requests = []string{asRequest("AUTH", o.Username, o.Password), requests[0]}
	case o.Password != "":
		requests = []string{asRequest("AUTH", o.Password), requests[0]}
	}
	for _, request := range requests {
		if _, err := io.WriteString(conn, request); err != nil {
			return fmt.Errorf("MONITOR: %w", err)
		}
		reply, err := lines.ReadString('\n')
		if err != nil {
			return fmt.Errorf("MONITOR: %w", err)
		}
		if refusal, found := strings.CutPrefix(reply, "-"); found {
			return fmt.Errorf("MONITOR was refused: %s", strings.TrimSpace(refusal))
		}
	}
	return nil
}

// asRequest is a command as the protocol has it, whatever characters its words have.
func asRequest(words ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(word), word)
	}
	return b.String()
}

func (m *monitor) close() { _ = m.conn.Close() }

// upTo returns what was seen until now.
func (m *monitor) upTo(ctx context.Context, client *redis.Client) (seen, error) {
	mark := rand.Text()
	if err := client.Echo(ctx, mark).Err(); err != nil {
		return seen{}, err
	}
	for {
		m.mu.Lock()
		counts, passed := m.marks[mark]
		delete(m.marks, mark)
		changed, fault := m.changed, m.fault
		m.mu.Unlock()
		switch {
		case fault != nil:
			return seen{}, fault
		case passed:
			return counts, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return seen{}, context.Cause(ctx)
		}
	}
}

// follow reads lines like `+1339518083.107412 [0 lua] "get" "k"`.
func (m *monitor) follow(lines *bufio.Reader) {
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
			m.ended(fmt.Errorf("%w: MONITOR ended: %w", ErrCountsLost, err))
			return
		}
	}
}

func (m *monitor) saw(line []byte) {
	_, from, _ := bytes.Cut(line, []byte(" ["))
	sender, words, found := bytes.Cut(from, []byte(`] "`))
	if !found {
		return // it is no command
	}
	first, rest, _ := bytes.Cut(words, []byte(`"`))
	m.mu.Lock()
	defer m.mu.Unlock()
	name := strings.ToUpper(string(first))
	_, address, _ := bytes.Cut(sender, []byte(" "))
	if string(address) == "lua" {
		m.seen.inScripts[name]++
		return
	}
	if m.seen.bySender[string(address)] == nil {
		m.seen.bySender[string(address)] = map[string]int64{}
	}
	m.seen.bySender[string(address)][name]++
	if name == "ECHO" {
		mark := string(bytes.Trim(rest, "\" \r\n"))
		m.marks[mark] = m.seen.clone()
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
