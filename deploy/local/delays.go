package main

import (
	"context"
	"math"
	"slices"
	"time"
)

// delays knows from the spans how soon those who waited for a fill had its value in their hands: inside the cache,
// from the holder's commit to the end of the waiter's look-up, whatever HTTP and the load script take after that. All
// replicas are on this machine and share its clock. The commit's span begins before Redis commits, so a delay may be
// too long by a round-trip and is never too short.
type delays struct {
	committing map[string]time.Time   // by the holder's trace: when its commit was sent
	returned   map[string][]time.Time // by the holder's trace: when those who waited for it had the value
}

func newDelays() *delays {
	return &delays{committing: map[string]time.Time{}, returned: map[string][]time.Time{}}
}

// see takes one span. A nil *delays, one that has been read, keeps nothing.
func (d *delays) see(s *span) {
	if d == nil {
		return
	}
	if s.attributes["db.stored_procedure.name"] == "cache.commit" {
		d.committing[s.trace] = s.start
	}
	if holder, ok := s.holder(); ok && s.waits() {
		d.returned[holder.trace] = append(d.returned[holder.trace], s.end)
	}
}

// known returns the delays of which both ends have arrived, the shortest first.
func (d *delays) known() (all []time.Duration) {
	for trace, committing := range d.committing {
		for _, returned := range d.returned[trace] {
			all = append(all, returned.Sub(committing))
		}
	}
	slices.Sort(all)
	return all
}

// waiterDelayP99 returns the delay that 99 of 100 waiters did not exceed, in milliseconds, once as many waits are known
// as the load script has counted; nil when they do not arrive, or when nobody waited: a part of them would not be the
// slowest part. It is asked once; nothing is kept for it afterwards.
func (m *traceMemory) waiterDelayP99(ctx context.Context, waits int) *float64 {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		m.mu.Lock()
		known, more := m.delays.known(), m.changed
		if len(known) >= waits {
			m.delays = nil
		}
		m.mu.Unlock()
		if len(known) >= waits {
			return percentile(known, 0.99)
		}
		select {
		case <-more:
		case <-ctx.Done():
			m.mu.Lock()
			defer m.mu.Unlock()
			m.delays = nil
			return nil
		}
	}
}

// percentile is the nearest rank among sorted durations, in milliseconds; nil among none.
func percentile(sorted []time.Duration, share float64) *float64 {
	if len(sorted) == 0 {
		return nil
	}
	rank := int(math.Ceil(share * float64(len(sorted))))
	return new(milliseconds(sorted[rank-1]))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
