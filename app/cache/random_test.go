package cache_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest"
)

var (
	seed  = flag.Uint64("seed", 0, "run the random test with this seed alone")
	seeds = flag.Int("seeds", 3, "how many seeds the random test tries, from 1 on")
)

// Replicas ask, delete and refresh while they and Redis are killed, paused, cut off and flushed, by a schedule that
// follows from a seed. What happens then depends on the machine too, so that a seed which failed may need several runs:
//
//	go test ./app/cache -run TestRandomFaults -seed 7 -count 10
//	go test ./app/cache -run TestRandomFaults -seeds 100
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	first, last := uint64(1), uint64(*seeds)
	if *seed != 0 {
		first, last = *seed, *seed
	}
	for s := first; s <= last; s++ {
		t.Run(fmt.Sprint("seed=", s), func(t *testing.T) {
			t.Parallel()
			newChaos(t, s).run()
		})
	}
}

// chaos is one such run.
type chaos struct {
	t        *testing.T
	random   *rand.Rand
	backend  backend
	record   *record
	journal  string
	replicas []*member
	work     sync.WaitGroup

	mu      sync.Mutex
	gets    []observedGet
	deletes []span
	// lost are the moments at which Redis forgot everything, and deaf those in which replicas may not have heard it.
	lost, deaf []span
	killed     map[string]int64 // replicas, and when
}

// member is a place for a replica, which may be filled anew.
type member struct {
	*process
	name     string
	settings settings
	proxy    *servicetest.Proxy
	lives    int
}

// span is a stretch of time, in Unix nanoseconds, in which something happened to a key or to all.
type span struct {
	key        string
	began, end int64
}

type observedGet struct {
	Got
	key, replica string
}

func newChaos(t *testing.T, seed uint64) *chaos {
	c := &chaos{
		t: t, random: rand.New(rand.NewPCG(seed, 0)), backend: oneRedis(t),
		journal: filepath.Join(t.TempDir(), "fills"), killed: map[string]int64{},
	}
	c.record = watch(t, c.backend.nodes[0])
	// A quick one, one of the size of the TTL, and one that needs heartbeats to keep its lease.
	for i, takes := range []time.Duration{5 * time.Millisecond, 60 * time.Millisecond, 400 * time.Millisecond} {
		through, proxies := c.backend.proxies(t)
		m := &member{proxy: proxies[c.backend.nodes[0]], settings: settings{
			Through: through, Journal: c.journal, LoadTime: takes, RedisTimeout: redisTimeout,
			TTL: 200 * time.Millisecond, StaleFor: 100 * time.Millisecond, SoftTimeout: 20 * time.Millisecond,
			Lease: 300 * time.Millisecond, LoadTimeout: time.Second, Cooldown: 50 * time.Millisecond,
		}}
		m.name = fmt.Sprint("r", i)
		c.replicas = append(c.replicas, m)
		c.start(m)
	}
	return c
}

func (c *chaos) start(m *member) {
	m.lives++
	m.settings.Replica = fmt.Sprintf("%s.%d", m.name, m.lives)
	m.process = startProcess(c.t, c.backend, m.settings)
}

// run goes through the schedule and then holds what was seen to the promises.
func (c *chaos) run() {
	const steps = 250
	for range steps {
		time.Sleep(c.upTo(40 * time.Millisecond)) // the schedule
		m := c.replicas[c.random.IntN(len(c.replicas))]
		key := []string{"a", "b"}[c.random.IntN(2)]
		switch n := c.random.IntN(100); {
		case n < 62:
			c.get(m, key, 1+c.random.IntN(10))
		case n < 70:
			c.delete(m, key)
		case n < 76:
			c.refresh(m, key)
		case n < 82:
			c.pause(m, c.upTo(1500*time.Millisecond))
		case n < 84:
			c.kill(m)
		case n < 86:
			c.flush()
		case n < 87:
			c.restart()
		case n < 90:
			c.hang(c.upTo(400 * time.Millisecond))
		case n < 92:
			c.slow(m, c.upTo(100*time.Millisecond))
		case n < 95:
			c.unheard(func() { m.proxy.Cut() })
		default:
			script := []string{"cache.lease", "cache.commit", "cache.extend"}[c.random.IntN(3)]
			c.unheard(func() { m.proxy.LoseReply(cache.Scripts()[script].Hash()) })
		}
	}
	for _, m := range c.replicas {
		m.proxy.Delay(0)
	}
	c.work.Wait()
	c.judge()
}

func (c *chaos) upTo(d time.Duration) time.Duration { return time.Duration(c.random.Int64N(int64(d))) }

// background does something that takes time while the schedule goes on.
func (c *chaos) background(do func()) { c.work.Go(do) }

func (c *chaos) note(list *[]span, key string, do func()) {
	s := span{key: key, began: time.Now().UnixNano()}
	do()
	s.end = time.Now().UnixNano()
	c.mu.Lock()
	defer c.mu.Unlock()
	*list = append(*list, s)
}

// unheard does what keeps replicas from hearing Redis.
func (c *chaos) unheard(do func()) { c.note(&c.deaf, "", do) }

func (c *chaos) get(m *member, key string, callers int) {
	answers, replica := m.ask(Ask{key, callers}), m.settings.Replica
	c.background(func() {
		for _, got := range <-answers {
			c.mu.Lock()
			c.gets = append(c.gets, observedGet{got, key, replica})
			c.mu.Unlock()
		}
	})
}

func (c *chaos) delete(m *member, key string) {
	p := m.process
	c.background(func() {
		s := span{key: key, began: time.Now().UnixNano()}
		if p.Try("Delete", key, &struct{}{}) != nil {
			return // it promises nothing
		}
		s.end = time.Now().UnixNano()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.deletes = append(c.deletes, s)
	})
}

func (c *chaos) refresh(m *member, key string) {
	p := m.process
	c.background(func() { _ = p.Try("Refresh", key, &Got{}) })
}

func (c *chaos) pause(m *member, lasts time.Duration) {
	p := m.process
	p.Signal(syscall.SIGSTOP)
	c.background(func() {
		time.Sleep(lasts)
		p.Signal(syscall.SIGCONT)
	})
}

func (c *chaos) kill(m *member) {
	m.Kill()
	c.killed[m.settings.Replica] = time.Now().UnixNano()
	c.start(m)
}

func (c *chaos) flush() {
	c.note(&c.lost, "", func() { require.NoError(c.t, connect(c.t, c.backend.nodes[0]).FlushAll(c.t.Context()).Err()) })
}

func (c *chaos) restart() {
	c.unheard(func() {
		c.note(&c.lost, "", func() {
			require.NoError(c.t, c.backend.nodes[0].Kill())
			<-c.record.ended
			c.record.forgot()
			require.NoError(c.t, c.backend.nodes[0].Restart(c.t.Context()))
			c.backend.loadScripts(c.t)
			c.record.attach(c.t, c.backend.nodes[0])
		})
	})
}

func (c *chaos) hang(lasts time.Duration) {
	c.unheard(func() {
		require.NoError(c.t, c.backend.nodes[0].Pause())
		time.Sleep(lasts)
		require.NoError(c.t, c.backend.nodes[0].Resume())
	})
}

func (c *chaos) slow(m *member, delay time.Duration) {
	c.unheard(func() { m.proxy.Delay(delay) })
	c.background(func() {
		time.Sleep(500 * time.Millisecond)
		c.unheard(func() { m.proxy.Delay(0) })
	})
}

// judge holds what was seen to the promises of the package.
func (c *chaos) judge() {
	t, fills := c.t, c.fills()
	c.record.mu.Lock()
	defer c.record.mu.Unlock()
	t.Logf("%d answers, %d deletions, %d fills, %d leases, %d writes of values; Redis forgot %d times",
		len(c.gets), len(c.deletes), len(fills), len(c.record.grants), c.record.writes, len(c.lost))
	require.Greater(t, len(c.gets), 100, "the run must have tried something")
	require.Greater(t, c.record.writes, 10)

	require.Empty(t, c.record.broken, "by Redis's own record")
	c.judgeFills(fills)
	c.judgeDeletions()
}

// judgeFills: while a lease lives nobody but its holder computes, and that once.
func (c *chaos) judgeFills(fills []JournalEntry) {
	under := map[string][]span{}
	for _, f := range fills {
		for _, g := range slices.Backward(c.record.grants) {
			if g.key != f.Key || g.from > f.Began || !strings.Contains(g.value, f.Trace) {
				continue
			}
			if f.Began < g.until {
				under[f.Key] = append(under[f.Key], span{f.Trace, f.Began, min(f.Ended, g.until)})
			}
			break
		}
	}
	for key, spans := range under {
		slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.began, b.began) })
		for i, s := range spans[1:] {
			require.LessOrEqual(c.t, spans[i].end, s.began, "%s: two fills at a time under a lease", key)
		}
	}
}

// judgeDeletions: nobody who asked after a deletion was given what was computed before it. Redis may have lost the
// tombstone, and whoever cannot hear Redis, and so stores nothing, cannot hear of deletions either.
func (c *chaos) judgeDeletions() {
	overlaps := func(spans []span, began, end int64) bool {
		return slices.ContainsFunc(spans, func(s span) bool { return s.began < end && s.end > began })
	}
	checked := 0
	for _, got := range c.gets {
		if got.Err != "" || got.Result == cache.ResultBypass {
			continue
		}
		const aWhile = int64(2 * time.Second) // breaker, time-outs and their repetitions
		if !got.Stored && overlaps(c.deaf, got.Began-aWhile, got.Ended) {
			continue
		}
		for _, d := range c.deletes {
			if d.key != got.key || got.Began < d.end || overlaps(c.lost, d.began, got.Ended) {
				continue
			}
			checked++
			require.GreaterOrEqual(c.t, number(got.Value), d.began, "%s: %s at %s was given what was deleted at %s",
				got.key, got.replica, time.Unix(0, got.Began).Format("05.000000"), time.Unix(0, d.end).Format("05.000000"))
		}
	}
	require.Positive(c.t, checked, "no answer followed a deletion")
}

// fills reads the journal that all replicas write. A replica that was killed computed until then.
func (c *chaos) fills() []JournalEntry {
	file, err := os.Open(c.journal)
	require.NoError(c.t, err)
	defer file.Close()
	byRun := map[string]*JournalEntry{}
	var order []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var e JournalEntry
		require.NoError(c.t, json.Unmarshal(lines.Bytes(), &e))
		run := fmt.Sprint(e.Replica, "#", e.Run)
		if e.Ended == 0 {
			byRun[run], order = &e, append(order, run)
			if e.Ended = c.killed[e.Replica]; e.Ended == 0 {
				e.Ended = time.Now().UnixNano()
			}
		} else {
			byRun[run].Ended = e.Ended
		}
	}
	var fills []JournalEntry
	for _, run := range order {
		fills = append(fills, *byRun[run])
	}
	return fills
}
