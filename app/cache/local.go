package cache

import (
	"sync"
	"time"
)

// local keeps copies in the process: for a moment as a tier in front of Redis, and for longer as what is left when
// Redis is away. A local with no time to live keeps nothing.
type local[V any] struct {
	ttl  time.Duration
	size int

	mu     sync.Mutex
	copies map[string]localCopy[V]
	// epoch counts what was forgotten. A copy of what was read before the last deletion must not be kept after it.
	epoch uint64
}

type localCopy[V any] struct {
	*entry[V]
	until time.Time // monotonic: no longer a tier after this
}

// now returns the epoch, to be handed to keep with what is read from here on.
func (l *local[V]) now() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

// keep remembers what was read in the given epoch. When there is no room an arbitrary copy gives way: all are
// short-lived.
func (l *local[V]) keep(key string, e *entry[V], epoch uint64) {
	if l.ttl <= 0 || e == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch != l.epoch {
		return
	}
	if _, known := l.copies[key]; !known && len(l.copies) >= l.size {
		for other := range l.copies {
			delete(l.copies, other)
			break
		}
	}
	l.copies[key] = localCopy[V]{e, time.Now().Add(l.ttl)}
}

// fresh returns the copy while it may stand in for Redis.
func (l *local[V]) fresh(key string, now time.Time) *entry[V] {
	c := l.last(key)
	if c.entry == nil || now.After(c.freshUntil) || time.Now().After(c.until) {
		return nil
	}
	return c.entry
}

// last returns the copy, however old, for when there is nothing else.
func (l *local[V]) last(key string) localCopy[V] {
	if l.ttl <= 0 {
		return localCopy[V]{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.copies[key]
}

// forget drops a copy that was replaced or deleted.
func (l *local[V]) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch++
	delete(l.copies, key)
}
