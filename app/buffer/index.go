package buffer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The index is a sorted set of the buffers that may have something, of all families of a namespace, by when they were
// last added to: Unix ms by the clock of the server that has the index. Recovery begins with it: without it, no process
// would look for what a process that has died left in a buffer.
//
// So Add must not accept an id whose buffer is not there. One server adds ids and the buffer's name in one script, and
// takes the name out in one that sees that the buffer is empty.
// On a Cluster the two are on different nodes: a membership is confirmed before ids are sent, in a round-trip of its
// own, and again after a quarter of forgetAfter. Run takes a buffer out only when it is empty and its membership older
// than forgetAfter, so that no process can still count on it.
const forgetAfter = time.Minute

// memberships knows when this process has confirmed that a buffer is in the index.
type memberships struct {
	mu        sync.Mutex
	confirmed map[string]time.Time // buffer name -> before it was asked
}

// rememberedMemberships bounds the memory where Run, which forgets old ones, does not run.
const rememberedMemberships = 10_000

func (m *memberships) age(name string) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, known := m.confirmed[name]; known {
		return time.Since(at)
	}
	return math.MaxInt64
}

func (m *memberships) confirm(name string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.confirmed) >= rememberedMemberships {
		clear(m.confirmed) // each is confirmed again when it is needed
	}
	m.confirmed[name] = at
}

func (m *memberships) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.confirmed, name)
}

// valid lists the buffers whose membership is no older than the given age, and forgets the others.
func (m *memberships) valid(atMost time.Duration) (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, at := range m.confirmed {
		if time.Since(at) < atMost {
			names = append(names, name)
		} else {
			delete(m.confirmed, name)
		}
	}
	return names
}

// confirm makes sure that the buffer's membership in the index is no older than a part of forgetAfter.
func (b *Buffer[ID]) confirm(ctx context.Context, part time.Duration) error {
	if b.oneServer || b.memberships.age(b.name) < b.options.forgetAfter/part {
		return nil
	}
	return b.register(ctx)
}

func (b *Buffer[ID]) register(ctx context.Context) error {
	at := time.Now()
	if err := registerScript.Run(ctx, b.rdb, []string{b.keys.index}, b.keys.member).Err(); err != nil {
		return fmt.Errorf("put the buffer into the index %s: %w", b.keys.index, err)
	}
	b.memberships.confirm(b.name, at)
	return nil
}

// indexEntry is what the index knew of a buffer when it was listed.
type indexEntry struct {
	added string        // the score
	age   time.Duration // by the server's clock
}

// list returns the family's buffers in an index.
func (b *Buffers[ID]) list(ctx context.Context, index, family string) (map[string]indexEntry, error) {
	reply, err := listScript.Run(ctx, b.rdb, []string{index}).Slice()
	if err != nil {
		return nil, fmt.Errorf("list the buffers in %s: %w", index, err)
	}
	entries, err := readIndex(reply)
	if err != nil {
		return nil, fmt.Errorf("list the buffers in %s: %w", index, err)
	}
	ours := map[string]indexEntry{}
	for member, entry := range entries {
		if name, is := strings.CutPrefix(member, family+":"); is {
			ours[name] = entry
		}
	}
	return ours, nil
}

func readIndex(reply []any) (map[string]indexEntry, error) {
	unexpected := fmt.Errorf("unexpected reply %v", reply)
	if len(reply) != 2 {
		return nil, unexpected
	}
	now, isTime := reply[0].(int64)
	list, isList := reply[1].([]any)
	if !isTime || !isList || len(list)%2 != 0 {
		return nil, unexpected
	}
	entries := map[string]indexEntry{}
	for i := 0; i < len(list); i += 2 {
		member, isText := list[i].(string)
		score, isScore := list[i+1].(string)
		added, err := strconv.ParseFloat(score, 64)
		if err != nil || !isText || !isScore {
			return nil, errors.Join(unexpected, err)
		}
		entries[member] = indexEntry{score, time.Duration(float64(now)-added) * time.Millisecond}
	}
	return entries, nil
}

// forget takes a buffer that was empty, after it was listed, from the index.
func (b *Buffer[ID]) forget(ctx context.Context, listed indexEntry) error {
	from, since := []string{b.keys.index}, b.options.forgetAfter
	if b.oneServer { // the script sees that it is empty, and each ADD puts it into the index
		from, since = append(from, b.keys.of("open"), b.keys.of("generations")), 0
	}
	if listed.age < since {
		return nil
	}
	// Before, so that an Add of this process which comes in between confirms the buffer again.
	b.memberships.forget(b.name)
	err := forgetScript.Run(ctx, b.rdb, from, b.keys.member, listed.added, since.Milliseconds()).Err()
	if err != nil {
		return fmt.Errorf("take the buffer from the index %s: %w", b.keys.index, err)
	}
	return nil
}
