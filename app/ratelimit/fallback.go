package ratelimit

import (
	"slices"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// fallback decides while Redis cannot be asked, each policy by its own Fallback.
type fallback struct {
	mu sync.Mutex
	// spent is what callers have spent by way of this process. The one who has been silent for longest gives way to a new
	// one.
	spent *simplelru.LRU[spender, spent]
}

type spender struct {
	caller, policy string
	strategy       Strategy
}

func newFallback(size int) *fallback {
	known, err := simplelru.NewLRU[spender, spent](size, nil)
	if err != nil {
		panic("ratelimit: " + err.Error())
	}
	return &fallback{spent: known}
}

// whenClosed is how long a caller is asked to wait if a closed policy has to be asked: Redis is tried again by then.
const whenClosed = breakerRest

func (f *fallback) decide(now, replicas int64, q question) Decision {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := Decision{Allowed: true, Degraded: true, Source: FromFallback}
	var local []Policy
	var before []spent
	for _, p := range q.policies {
		if p.Fallback == Local {
			before = append(before, f.of(q.caller, p))
			// This replica's share of the limit, and at least what the request costs: else it could never be admitted.
			p.Limit = max(q.cost, p.Limit/replicas)
			local = append(local, p)
		}
	}
	cost := q.cost
	if slices.ContainsFunc(q.policies, func(p Policy) bool { return p.Fallback == Closed }) {
		cost = 0 // it will be denied, and so spends nothing
	}
	verdicts, after := decide(now, cost, local, before)
	for _, p := range q.policies {
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
	for i, p := range local { // after a denial too: if the clock was set back, so was the log, and only once
		f.spent.Add(spender{q.caller, p.Name, p.Strategy}, after[i])
	}
	return d
}

// admitted notes what Redis has admitted here, so that an outage, if only of one answer that was late, goes on from
// there and not from nothing.
func (f *fallback) admitted(now int64, q question) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range q.policies {
		if p.Fallback == Local {
			f.spent.Add(spender{q.caller, p.Name, p.Strategy}, f.of(q.caller, p).setBack(now).at(now, p).and(q.cost, now, p))
		}
	}
}

func (f *fallback) of(caller string, p Policy) spent {
	s, _ := f.spent.Get(spender{caller, p.Name, p.Strategy})
	return s
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
