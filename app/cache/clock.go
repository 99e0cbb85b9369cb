package cache

import (
	"sync/atomic"
	"time"
)

// serverClock tells Redis's time without asking: the local clock, corrected by the offset that script replies teach.
// Replicas whose clocks disagree still agree on what is fresh.
type serverClock struct{ offset atomic.Int64 }

func (c *serverClock) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

// learn takes the server's time from a reply to a command that was sent at the given local time.
func (c *serverClock) learn(server, sent time.Time) {
	received := time.Now()
	c.offset.Store(int64(server.Sub(sent.Add(received.Sub(sent) / 2))))
}
