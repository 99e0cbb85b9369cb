package cache

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// What happens to a key, as told on the cache's channel to those who wait and to those who keep copies.
const (
	wasFilled  = "filled"
	hasFailed  = "failed"
	wasDeleted = "deleted"
)

func message(what, key string) string { return what + " " + key }

// wakeups hands the channel's messages to the flights that wait for them. The zero value is ready, and silent until
// listen runs.
type wakeups struct {
	mu      sync.Mutex
	waiting map[string]map[chan struct{}]bool
}

// register returns a channel that receives once something happens to the key, and a function that ends that.
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

// listen receives until the context ends. go-redis reconnects and subscribes again by itself; what was published in
// between is lost, which is why waiters also poll.
func (w *wakeups) listen(
	ctx context.Context, rdb redis.UniversalClient, channel string, onFilled, onDeleted func(key string),
) {
	subscription := rdb.Subscribe(ctx, channel)
	defer subscription.Close()
	messages := subscription.Channel()
	for {
		select {
		case <-ctx.Done():
			return
		case m, open := <-messages:
			if !open {
				return
			}
			what, key, _ := strings.Cut(m.Payload, " ")
			switch what {
			case wasFilled:
				onFilled(key)
			case wasDeleted:
				onDeleted(key)
			}
			w.wake(key)
		}
	}
}

// The poll behind the push starts quick and slows down, because the longer a fill has taken the less one more moment
// matters.
const (
	firstPoll = 50 * time.Millisecond
	slowPoll  = 500 * time.Millisecond
)

// wait is one flight's waiting for somebody else's fill.
type wait struct {
	since   time.Time
	times   int
	endedBy string // push or poll
	poll    time.Duration
}

func newWait() *wait { return &wait{since: time.Now(), poll: firstPoll} }

// sleep returns when woken, when it is time to look again (at the latest when the holder's lease, if it is dead, has
// expired), or when the context ends.
func (w *wait) sleep(ctx context.Context, woken <-chan struct{}, leaseLasts time.Duration) {
	w.times++
	// Jittered, or the flights of all replicas would ask in step.
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
