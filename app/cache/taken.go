package cache

import (
	"sync"
	"time"
)

// taken remembers for which keys it is pointless to ask for the lease, and until when: another replica has it, or a
// failed fill left a cooldown. A message about the key ends that. So hits during a refresh elsewhere stay plain GETs.
type taken struct {
	mu    sync.Mutex
	until map[string]takenLease
}

type takenLease struct {
	status leaseStatus
	until  time.Time
}

// takenSize bounds how many keys are remembered. One that is forgotten costs one script more.
const takenSize = 10_000

func (t *taken) set(key string, status leaseStatus, lasts time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if len(t.until) >= takenSize {
		for other, l := range t.until {
			if now.After(l.until) {
				delete(t.until, other)
			}
		}
		if len(t.until) >= takenSize {
			clear(t.until)
		}
	}
	if t.until == nil {
		t.until = map[string]takenLease{}
	}
	t.until[key] = takenLease{status, now.Add(lasts)}
}

// status returns leaseBusy or leaseCooldown while that is known to last, else "".
func (t *taken) status(key string) leaseStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	l, known := t.until[key]
	if !known {
		return ""
	}
	if time.Now().After(l.until) {
		delete(t.until, key)
		return ""
	}
	return l.status
}

func (t *taken) forget(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.until, key)
}

// forgetAll is for when messages may have been missed.
func (t *taken) forgetAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.until)
}
