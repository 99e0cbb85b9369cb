package cache

import (
	"sync"
	"time"
)

// local keeps copies in the process. A copy saves the round-trip of a hit while its feed proves that messages about its
// key arrive, and it is what can be served when Redis fails. A local without a TTL keeps nothing. It holds at most size
// copies.
type local[V any] struct {
	ttl  time.Duration
	size int

	mu     sync.Mutex
	copies map[string]localCopy[V]
	// reads are the reads of Redis in flight, by key. What one brings must not be kept if the key was forgotten meanwhile.
	reads map[string]*localRead
	// evicted is told of each key whose copy had to give way.
	evicted func(key string)
}

type localCopy[V any] struct {
	*entry[V]
	until time.Time // monotonic: no hit after this
	// feed has covered the key since before the read. Nil for a copy that is good for an outage alone.
	feed *feed
}

// localRead is shared by the reads of one key that overlap.
type localRead struct {
	readers int
	feed    *feed
	spoiled bool
}

// begin is called before a read of Redis, with the feed that covers the key, or nil. The result goes to end.
func (l *local[V]) begin(key string, f *feed) *localRead {
	if l.ttl <= 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.reads[key]
	if r == nil || r.feed != f {
		if r != nil {
			r.spoiled = true // else overlapping reads without end would keep the key from being covered
		}
		r = &localRead{feed: f}
		l.reads[key] = r
	}
	r.readers++
	return r
}

// end takes the result of a read: what was found, nil if there is nothing, or a failure.
func (l *local[V]) end(key string, r *localRead, found *entry[V], failed bool) {
	if r == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.readers--; r.readers == 0 && l.reads[key] == r {
		delete(l.reads, key)
	}
	switch {
	case failed || r.spoiled:
		return
	case found == nil:
		delete(l.copies, key)
		return
	}
	known, exists := l.copies[key]
	if exists && known.createdAt.After(found.createdAt) {
		return // replies may overtake each other
	}
	if !exists && len(l.copies) >= l.size {
		for other := range l.copies { // an arbitrary one: all are short-lived
			delete(l.copies, other)
			l.evicted(other)
			break
		}
	}
	l.copies[key] = localCopy[V]{found, time.Now().Add(l.ttl), r.feed}
}

// fresh returns the copy while it may stand in for Redis, else nil.
func (l *local[V]) fresh(key string, now time.Time) *entry[V] {
	if l.ttl <= 0 {
		return nil
	}
	c := l.copy(key)
	if c.entry == nil || now.After(c.freshUntil) || time.Now().After(c.until) || !c.feed.trusted() {
		return nil
	}
	return c.entry
}

// last returns the copy, however old, for when Redis fails; else nil.
func (l *local[V]) last(key string) *entry[V] { return l.copy(key).entry }

func (l *local[V]) copy(key string) localCopy[V] {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.copies[key]
}

// forget drops a copy that was replaced or deleted.
func (l *local[V]) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.copies, key)
	if r := l.reads[key]; r != nil {
		r.spoiled = true
		delete(l.reads, key)
	}
}

// forgetAll is for when messages may have been missed.
func (l *local[V]) forgetAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.copies)
	for _, r := range l.reads {
		r.spoiled = true
	}
	clear(l.reads)
}
