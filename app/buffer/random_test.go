package buffer_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
	"nervous/app/servicetest"
)

var (
	seed  = flag.Uint64("seed", 0, "run the random test with this seed alone")
	seeds = flag.Int("seeds", 3, "how many seeds the random test tries, from 1 on")
)

// Workers add and flush while they, Redis and the network are killed, paused, cut off and flushed, by a schedule that
// follows from a seed. What happens then depends on the machine too, so that a seed which failed may need several runs:
//
//	go test ./app/buffer -run TestRandomFaults -seed 7 -count 10
//	go test ./app/buffer -run TestRandomFaults -seeds 100
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

// chaos is one such run. All workers flush the live buffer by size and age, and another one when they are told to.
type chaos struct {
	t       *testing.T
	random  *rand.Rand
	backend backend
	ledger  *ledger
	workers []*place
	newest  int64 // of the payments that somebody has tried to add
	work    sync.WaitGroup

	mu      sync.Mutex
	adds    []accepted
	flushes []span // that succeeded, of the other buffer
	failed  int    // adds and flushes
	lost    []span // in which Redis forgot everything
}

// place is one for a worker, which may be filled anew.
type place struct {
	*process
	settings        settings
	redis, postgres *servicetest.Proxy
}

// span is a stretch of time in which something happened.
type span struct{ began, ended time.Time }

// accepted is an Add that returned no error.
type accepted struct {
	Payments
	span
}

// other is the buffer that is flushed on demand.
const other = "other"

// most is how many payments there are for a run.
const most = 30_000

func newChaos(t *testing.T, seed uint64) *chaos {
	c := &chaos{
		t: t, random: rand.New(rand.NewPCG(seed, 0)), backend: keptRedis(t), ledger: newLedger(t, most),
	}
	database, err := url.Parse(c.ledger.url)
	require.NoError(t, err)
	for range 3 {
		through, proxies := c.backend.proxies(t)
		w := &place{redis: proxies[c.backend.nodes[0]], postgres: servicetest.NewProxy(t, database.Host)}
		far := *database
		far.Host = w.postgres.Addr()
		w.settings = settings{
			Network: through, Database: far.String(), FlushSize: 300, FlushAge: often,
			Lease: 600 * time.Millisecond, FlushTimeout: 3 * time.Second, Run: true, Continuous: []string{live},
		}
		w.process = startProcess(t, c.backend, c.ledger, w.settings)
		c.workers = append(c.workers, w)
	}
	return c
}

// run goes through the schedule, lets what is left be flushed, and then holds what was seen to the promises.
func (c *chaos) run() {
	const steps = 200
	for step := range steps {
		time.Sleep(c.upTo(40 * time.Millisecond)) // the schedule
		w := c.workers[c.random.IntN(len(c.workers))]
		switch n := c.random.IntN(100); {
		case n < 54:
			c.add(w, []string{live, other}[c.random.IntN(2)])
		case n < 70:
			c.flush(w)
		case n < 74:
			c.pause(w, c.upTo(1500*time.Millisecond))
		case n < 78:
			w.Kill()
			w.process = startProcess(c.t, c.backend, c.ledger, w.settings)
		case n < 80 && step < steps/2: // what comes after must not be lost
			c.forget()
		case n < 82:
			require.NoError(c.t, c.backend.nodes[0].Restart(c.t.Context()))
		case n < 84:
			c.hang(c.upTo(400 * time.Millisecond))
		case n < 86:
			c.slow(w, c.upTo(100*time.Millisecond))
		case n < 89:
			w.redis.Cut()
		case n < 92:
			w.postgres.Cut()
		case n < 94:
			w.postgres.LoseReply("commit")
		default:
			scripts := []string{"buffer.add", "buffer.cut", "buffer.claim", "buffer.extend", "buffer.acknowledge"}
			w.redis.LoseReply(buffer.Scripts()[scripts[c.random.IntN(len(scripts))]].Hash())
		}
	}
	c.work.Wait()
	last := startProcess(c.t, c.backend, c.ledger, settings{FlushAge: often, Run: true, Continuous: []string{live}})
	began := time.Now()
	last.flush(other)
	c.flushes = append(c.flushes, span{began, time.Now()})
	c.backend.empty(c.t, member)
	c.backend.empty(c.t, family+":"+other)
	c.judge()
}

func (c *chaos) upTo(d time.Duration) time.Duration { return time.Duration(c.random.Int64N(int64(d))) }

// add adds some payments that are new, and some that were added before.
func (c *chaos) add(w *place, name string) {
	first := max(1, c.newest+1-c.random.Int64N(50))
	payments := Payments{name, first, min(most, first+c.random.Int64N(200))}
	c.newest = max(c.newest, payments.Last)
	p := w.process
	c.tried(func() error { return p.Try("Add", payments, new(string)) }, func(s span) {
		c.adds = append(c.adds, accepted{payments, s})
	})
}

func (c *chaos) flush(w *place) {
	p := w.process
	c.tried(func() error { return p.Try("Flush", other, &Flush{}) }, func(s span) {
		c.flushes = append(c.flushes, s)
	})
}

// tried does something while the schedule goes on, and notes when, if it succeeded.
func (c *chaos) tried(do func() error, note func(span)) {
	began := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- do() }()
	c.work.Go(func() {
		err := <-ended
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil {
			c.failed++
			return
		}
		note(span{began, time.Now()})
	})
}

func (c *chaos) pause(w *place, lasts time.Duration) {
	p := w.process
	p.Signal(syscall.SIGSTOP)
	c.work.Go(func() {
		time.Sleep(lasts)
		p.Signal(syscall.SIGCONT)
	})
}

func (c *chaos) forget() {
	began := time.Now()
	require.NoError(c.t, connect(c.t, c.backend.nodes[0]).FlushAll(c.t.Context()).Err())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = append(c.lost, span{began, time.Now()})
}

func (c *chaos) hang(lasts time.Duration) {
	require.NoError(c.t, c.backend.nodes[0].Pause())
	time.Sleep(lasts)
	require.NoError(c.t, c.backend.nodes[0].Resume())
}

func (c *chaos) slow(w *place, delay time.Duration) {
	w.redis.Delay(delay)
	w.postgres.Delay(delay)
	c.work.Go(func() {
		time.Sleep(500 * time.Millisecond)
		w.redis.Delay(0)
		w.postgres.Delay(0)
	})
}

// judge holds what was seen to the promises of the package.
func (c *chaos) judge() {
	t := c.t
	marks := c.marks()
	t.Logf("%d adds and %d flushes succeeded, %d failed; %d payments were marked in %d generations; Redis forgot %d times",
		len(c.adds), len(c.flushes), c.failed, len(marks), c.ledger.generations(t), len(c.lost))
	require.Greater(t, len(c.adds), 20, "the run must have tried something, also on a machine with much else to do")
	require.Positive(t, c.failed)

	checked := 0
	for _, add := range c.adds {
		if c.forgot(add.began, time.Now()) {
			continue
		}
		for _, id := range agreeing(add) {
			checked++
			if _, marked := marks[id]; !marked {
				t.Errorf("payment %d was accepted by %s at %s, and lost", id, add.Buffer, clock(add.ended))
			}
		}
	}
	require.Positive(t, checked, "Redis forgot everything that was accepted")

	checked = 0
	for _, flush := range c.flushes {
		for _, add := range c.adds {
			if add.Buffer != other || add.ended.After(flush.began) || c.forgot(add.began, flush.ended) {
				continue
			}
			for _, id := range agreeing(add) {
				checked++
				if at := marks[id]; at.After(flush.ended) {
					t.Errorf("payment %d was accepted at %s and marked at %s, though a flush took from %s to %s",
						id, clock(add.ended), clock(at), clock(flush.began), clock(flush.ended))
				}
			}
		}
	}
	require.Positive(t, checked, "no flush followed an add")
}

// agreeing are the payments of an Add that must be marked in the end.
func agreeing(add accepted) []int64 {
	return slices.DeleteFunc(add.ids(), func(id int64) bool { return agree(id, id) == 0 })
}

func clock(at time.Time) string { return at.Format("05.000000") }

// forgot says whether Redis did at some time.
func (c *chaos) forgot(from, to time.Time) bool {
	return slices.ContainsFunc(c.lost, func(s span) bool { return s.began.Before(to) && s.ended.After(from) })
}

// marks reads when each payment was marked, which must have been once, and right.
func (c *chaos) marks() map[int64]time.Time {
	rows, err := c.ledger.pool.Query(c.t.Context(), "SELECT payment, marked_at FROM marks")
	require.NoError(c.t, err)
	marks := map[int64]time.Time{}
	var id int64
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &at}, func() error {
		if _, twice := marks[id]; twice || agree(id, id) == 0 || id > c.newest {
			c.t.Errorf("payment %d was marked twice, does not agree, or was never added", id)
		}
		marks[id] = at
		return nil
	})
	require.NoError(c.t, err)
	require.EqualValues(c.t, len(marks), c.ledger.marked(c.t, 1, most))
	return marks
}
