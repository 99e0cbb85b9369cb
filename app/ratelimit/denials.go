package ratelimit

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// denials remembers what Redis has denied for as long as it surely still would: nothing but time makes room, and a
// Reset. So a caller who goes on and on costs no round-trip. What the other policies had left is remembered as it was
// then, and may have been spent since.
type denials struct {
	mu    sync.Mutex
	known *simplelru.LRU[denialKey, *denial]
	// epoch counts what was forgotten. A denial that was asked for before the last Reset must not be kept after it.
	epoch uint64
}

// denialKey has all that a denial depends on: another cost, or another set of policies, might be admitted.
type denialKey struct {
	caller   string
	cost     int64
	policies string
}

type denial struct {
	Decision
	// answered is when the reply had come, from where its times count.
	answered time.Time
	// until is the last moment at which Redis surely still denies. It counts from before the question was sent, because
	// Redis decided at some time after that.
	until time.Time
	// times is how often it was asked for.
	times int64
}

func newDenials(size int) *denials {
	known, err := simplelru.NewLRU[denialKey, *denial](size, nil)
	if err != nil {
		panic("ratelimit: " + err.Error())
	}
	return &denials{known: known}
}

func (q question) denialKey() denialKey {
	names := make([]string, 0, 2)
	for _, p := range q.policies {
		names = append(names, p.Name, string(p.Strategy))
	}
	return denialKey{q.caller, q.cost, strings.Join(names, " ")}
}

// current returns the epoch, to be handed to remember with what is asked from here on.
func (m *denials) current() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.epoch
}

func (m *denials) remember(q question, d Decision, asked, answered time.Time, epoch uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if epoch == m.epoch {
		m.known.Add(q.denialKey(), &denial{Decision: d, answered: answered, until: asked.Add(d.Wait()), times: 1})
	}
}

// recall returns the decision if it is a denial that still holds.
func (m *denials) recall(q question, now time.Time) (Decision, bool) {
	key := q.denialKey()
	m.mu.Lock()
	defer m.mu.Unlock()
	d, known := m.known.Get(key)
	if !known || !slices.EqualFunc(d.Verdicts, q.policies, func(v Verdict, p Policy) bool { return v.Policy == p }) {
		return Decision{}, false // by other limits it might be admitted
	}
	if !now.Before(d.until) {
		m.known.Remove(key)
		return Decision{}, false
	}
	d.times++
	recalled := d.after(now.Sub(d.answered))
	recalled.Source = FromMemory
	return recalled, true
}

// forget drops what is remembered of a caller.
func (m *denials) forget(caller string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch++
	for _, key := range m.known.Keys() {
		if key.caller == caller {
			m.known.Remove(key)
		}
	}
}

// forgetAll drops everything, for when a Reset may have been missed.
func (m *denials) forgetAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch++
	m.known.Purge()
}

// count drops what has ended, and returns how many callers are still denied something, and how often the most
// persistent one of them was.
func (m *denials) count(now time.Time) (callers, most int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	times := map[string]int64{}
	for _, key := range m.known.Keys() {
		d, _ := m.known.Peek(key)
		if !now.Before(d.until) {
			m.known.Remove(key)
			continue
		}
		times[key.caller] += d.times
		most = max(most, times[key.caller])
	}
	return int64(len(times)), most
}
