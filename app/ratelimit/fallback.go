package ratelimit

import (
	"slices"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// fallback decides while Redis does not answer, each policy by its own Fallback.
type fallback struct {
	mu sync.Mutex
	// spent is what callers have spent by way of this process. The least recently used give way to new ones, by number and
	// by bytes.
	spent *simplelru.LRU[spender, *held]
	// bytes is an estimate of what spent takes, and most its bound.
	bytes, most int64
}

// held is what a spender has spent, and the bytes that were last counted for it.
type held struct {
	spent
	bytes int64
}

type spender struct {
	caller, policy string
	strategy       Strategy
}

const (
	// spenderBytes is about what an entry takes without its log and its caller's text.
	spenderBytes = 256
	runBytes     = 16
	// maxRuns bounds the log of one entry. A log that would be longer is coarsened.
	maxRuns = 256
	// coarseness is the part of a window by which units of a coarsened log may count longer than they should.
	coarseness = 128
)

func newFallback(size int, bytes int64) *fallback {
	f := &fallback{most: bytes}
	known, err := simplelru.NewLRU(size, func(_ spender, h *held) {
		f.bytes -= h.bytes
		h.bytes = 0
	})
	if err != nil {
		panic("ratelimit: " + err.Error())
	}
	f.spent = known
	return f
}

// whenClosed is how long a caller is asked to wait if a closed policy has to be asked: Redis is tried again by then.
const whenClosed = breakerRest

// decide spends the cost from the policies that are Local if all policies admit it.
func (f *fallback) decide(now, replicas int64, q question) Decision {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := Decision{Allowed: true, Degraded: true, Source: FromFallback}
	cost := q.cost
	if slices.ContainsFunc(q.policies, func(p *CompiledPolicy) bool { return p.settings.Fallback == Closed }) {
		cost = 0 // it will be denied, and so spends nothing
	}
	var local []Policy
	var states []*spent
	var holders []*held
	for _, p := range q.policies {
		if p := p.settings; p.Fallback == Local {
			// This replica's share of the limit, and at least what the request costs: else it could never be admitted.
			p.Limit = max(q.cost, p.Limit/replicas)
			h := f.of(q.caller, p)
			local, states, holders = append(local, p), append(states, &h.spent), append(holders, h)
		}
	}
	verdicts := decide(now, cost, local, states)
	for i, p := range local {
		f.keep(q.caller, p, holders[i])
	}
	for _, p := range q.policies {
		p := p.settings
		v := Verdict{Policy: p}
		switch p.Fallback {
		case Local:
			v, verdicts = verdicts[0], verdicts[1:]
			v.Policy = p
		case Open:
			v.Remaining = p.Limit - q.cost
		case Closed:
			v.Wait, v.Reset = whenClosed, whenClosed
		}
		d.Allowed = d.Allowed && v.Wait == 0
		d.Verdicts = append(d.Verdicts, v)
	}
	return d
}

// admitted enters what Redis has admitted, so that an outage, if only of one late answer, continues from there and not
// from nothing.
func (f *fallback) admitted(now int64, q question) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range q.policies {
		if p := p.settings; p.Fallback == Local {
			h := f.of(q.caller, p)
			h.setBack(now)
			h.spend(q.cost, now, p)
			f.keep(q.caller, p, h)
		}
	}
}

func (f *fallback) of(caller string, p Policy) *held {
	if h, known := f.spent.Get(spender{caller, p.Name, p.Strategy}); known {
		return h
	}
	return &held{}
}

// keep enters what was changed, and makes room for it.
func (f *fallback) keep(caller string, p Policy, h *held) {
	if len(h.log) > maxRuns {
		h.coarsen(max(1, p.Window.Microseconds()/coarseness))
	}
	key := spender{caller, p.Name, p.Strategy}
	if other, known := f.spent.Peek(key); known && other != h { // a check that has the same policy twice
		f.bytes -= other.bytes
	}
	now := spenderBytes + int64(len(caller)) + runBytes*int64(cap(h.log))
	f.bytes, h.bytes = f.bytes+now-h.bytes, now
	f.spent.Add(key, h)
	for f.bytes > f.most && f.spent.Len() > 1 {
		f.spent.RemoveOldest()
	}
}

// coarsen joins the runs within each interval of that length, counted from the clock's zero, to the time of the last of
// them. Units count longer than they should, by less than the interval, so no more is admitted. Of a log that spans one
// window at most coarseness + 1 runs are left.
func (s *spent) coarsen(interval int64) {
	joined := make([]run, 0, maxRuns+1)
	for _, r := range s.log {
		if last := len(joined) - 1; last >= 0 && joined[last].at/interval == r.at/interval {
			joined[last] = run{r.at, joined[last].units + r.units}
			continue
		}
		joined = append(joined, r)
	}
	s.log = joined
}

// forget drops what a caller has spent here.
func (f *fallback) forget(caller string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range f.spent.Keys() {
		if key.caller == caller {
			f.spent.Remove(key)
		}
	}
}
