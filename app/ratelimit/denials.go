package ratelimit

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// unheardFor is how long a denial is remembered while the subscription to resets is refused: for so long a Reset by
// another replica may go unheard.
const unheardFor = time.Second

// denials remembers what Redis has denied for as long as Redis surely denies it: only time makes room, and a Reset. So
// a caller that repeats its request costs no round-trip. What the other policies had left is remembered as it was then,
// and may have been spent since.
type denials struct {
	mu    sync.Mutex
	known *simplelru.LRU[denialKey, *denial]
	// epoch counts what was forgotten. A denial that was asked for before the last Reset must not be kept after it.
	epoch uint64
	// deaf says that resets by other replicas are not heard.
	deaf atomic.Bool
}

// denialKey stands for all that a denial depends on: another cost, or another set of policies, might be admitted. The
// policies are a hash, so recall compares them too.
type denialKey struct {
	caller   string
	cost     int64
	policies uint64
}

type denial struct {
	Decision
	// answered is when the reply was here; its times count from then.
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

func keyOf(caller string, cost int64, policies []*CompiledPolicy) denialKey {
	var id uint64
	for _, p := range policies {
		id = id*1_099_511_628_211 ^ p.id
	}
	return denialKey{caller, cost, id}
}

// current returns the epoch, to be handed to remember with what is asked from here on.
func (m *denials) current() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.epoch
}

func (m *denials) remember(q question, d Decision, asked, answered time.Time, epoch uint64) {
	lasts := d.Wait()
	if m.deaf.Load() {
		lasts = min(lasts, unheardFor)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if epoch == m.epoch {
		m.known.Add(keyOf(q.caller, q.cost, q.policies),
			&denial{Decision: d, answered: answered, until: asked.Add(lasts), times: 1})
	}
}

// recall returns the decision if it is a denial that still holds. Of what it is given it keeps nothing, so that the
// slice of policies can stay on its caller's stack.
func (m *denials) recall(caller string, cost int64, policies []*CompiledPolicy, now time.Time) (Decision, bool) {
	key := keyOf(caller, cost, policies)
	m.mu.Lock()
	defer m.mu.Unlock()
	d, known := m.known.Get(key)
	if !known || !slices.EqualFunc(d.Verdicts, policies, func(v Verdict, p *CompiledPolicy) bool {
		return v.Policy == p.settings // by other limits it might be admitted
	}) {
		return Decision{}, false
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
