package cache

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// wakeups hands the channel's messages to the flights that wait for them. The zero value is ready.
type wakeups struct {
	mu      sync.Mutex
	waiting map[string]map[chan struct{}]bool
}

// register returns a channel that receives when something happens to the key, and a function that unregisters it.
func (w *wakeups) register(key string) (<-chan struct{}, func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	woken := make(chan struct{}, 1)
	if w.waiting == nil {
		w.waiting = map[string]map[chan struct{}]bool{}
	}
	if w.waiting[key] == nil {
		w.waiting[key] = map[chan struct{}]bool{}
	}
	w.waiting[key][woken] = true
	return woken, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting[key], woken)
		if len(w.waiting[key]) == 0 {
			delete(w.waiting, key)
		}
	}
}

func (w *wakeups) wake(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for woken := range w.waiting[key] {
		select {
		case woken <- struct{}{}:
		default: // it has a message already
		}
	}
}

// The poll behind the push starts fast and slows down: the longer a fill takes, the less a small delay matters.
const (
	firstPoll = 50 * time.Millisecond
	slowPoll  = 500 * time.Millisecond
)

// wait is one flight's wait for a fill on another replica.
type wait struct {
	since   time.Time
	times   int
	endedBy string // push or poll
	poll    time.Duration
}

func newWait() *wait { return &wait{since: time.Now(), poll: firstPoll} }

// sleep returns after a wake-up, at the next poll (at the latest when the lease of a dead holder has expired), or when
// the context ends.
func (w *wait) sleep(ctx context.Context, woken <-chan struct{}, leaseLasts time.Duration) {
	w.times++
	// Jittered, so that the flights of all replicas do not poll in step.
	pause := w.poll/2 + rand.N(w.poll)
	if leaseLasts > 0 {
		pause = min(pause, leaseLasts+time.Millisecond)
	}
	w.poll = min(2*w.poll, slowPoll)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-woken:
		w.endedBy = "push"
	case <-timer.C:
		w.endedBy = "poll"
	}
	event(ctx, "woken."+w.endedBy)
}
