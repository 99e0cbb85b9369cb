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

// see takes one span. A nil *delays keeps nothing: the measurement has ended.
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

// of returns the delays of those who waited for the fill that exactly so many waited for, the shortest first; none
// while one of them, or the commit, has not arrived: a part of the waits might not be the slowest part.
func (d *delays) of(waits int) []time.Duration {
	for trace, returned := range d.returned {
		committing, known := d.committing[trace]
		if !known || len(returned) != waits {
			continue
		}
		all := make([]time.Duration, waits)
		for i, at := range returned {
			all[i] = at.Sub(committing)
		}
		slices.Sort(all)
		return all
	}
	return nil
}

// waiterDelayP99 returns, in milliseconds, the delay that 99 of 100 did not exceed of those who waited in a phase of
// the load script; nil where nobody waited, or when the spans do not arrive.
func (m *traceMemory) waiterDelayP99(ctx context.Context, p phase) *float64 {
	if p.Waits == nil || *p.Waits == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		m.mu.Lock()
		found, more := m.delays.of(int(*p.Waits)), m.changed
		m.mu.Unlock()
		if found != nil {
			return percentile(found, 0.99)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

// endDelays ends the measurement: a deployment that stays up would collect them for ever.
func (m *traceMemory) endDelays() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delays = nil
}

// percentile is the nearest rank among sorted durations, in milliseconds.
func percentile(sorted []time.Duration, share float64) *float64 {
	rank := int(math.Ceil(share * float64(len(sorted))))
	return new(milliseconds(sorted[rank-1]))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
