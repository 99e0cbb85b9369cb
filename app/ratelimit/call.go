package ratelimit

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errBudget = errors.New("rate limit: Redis did not answer within the budget")
	errLate   = errors.New("rate limit: Redis was not asked, because too many calls to it are late")
)

// call is one question on its way to Redis. It runs in a goroutine of its own, because the budget bounds how long its
// caller waits and not how long the call takes: a connection that is being opened for it is worth keeping, and a late
// answer still says what Redis knows.
//
// It is the context of that goroutine too. While the caller waits, the context has the values of the caller's; once the
// call is late, those of the context that Options.Detach returned. So a hook that looks for a tally when a command ends
// charges the work that waited for it.
type call struct {
	limiter  *Limiter
	question question
	request  context.Context
	deadline time.Time
	// detached is set once the call is late.
	detached atomic.Pointer[context.Context]
	canceled chan struct{}

	// answered is closed when decision and err are set.
	answered chan struct{}
	decision Decision
	err      error

	mu sync.Mutex
	// ended says that the answer is here, late that the caller did not wait for it.
	ended, late bool
	// settled says that the decision without Redis is made, and spent that the fallback has spent the cost in it.
	settled, spent bool
	expiry         *time.Timer
	cause          error
}

// start asks Redis.
func (l *Limiter) start(ctx context.Context, q question) *call {
	c := &call{
		limiter: l, question: q, request: ctx, deadline: time.Now().Add(l.options.CallTimeout),
		canceled: make(chan struct{}), answered: make(chan struct{}),
	}
	go c.run(l.now(), l.denials.current())
	return c
}

func (c *call) run(asked time.Time, epoch uint64) {
	l := c.limiter
	d, err := l.runCheck(c, c.question)
	l.lost(c, err)
	if err == nil && !d.Allowed {
		l.denials.remember(c.question, d, asked, l.now(), epoch)
	}
	c.mu.Lock()
	c.decision, c.err, c.ended = d, err, true
	late, enter := c.late, c.toEnter()
	c.mu.Unlock()
	if enter {
		l.fallback.admitted(l.now().UnixMicro(), c.question)
	}
	close(c.answered)
	if late {
		c.expiry.Stop()
		l.late.remove(c)
	}
}

// toEnter says whether the fallback has to be told of an admission. It counts a cost once: a late admission whose cost
// the fallback has spent already is not entered again. The caller holds mu.
func (c *call) toEnter() bool {
	return c.ended && c.err == nil && c.decision.Allowed && (!c.late || c.settled && !c.spent)
}

// settle says what was decided without Redis, for when the answer comes.
func (c *call) settle(spent bool) {
	if c == nil {
		return // Redis was not asked
	}
	c.mu.Lock()
	late := c.late
	c.settled, c.spent = true, spent
	enter := late && c.toEnter()
	c.mu.Unlock()
	if enter {
		c.limiter.fallback.admitted(c.limiter.now().UnixMicro(), c.question)
	}
}

// timers are stopped and drained.
var timers = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}}

// wait returns the answer, or an error if the budget or the context ends before.
//
// It waits for the budget in two halves. A process that does not run for a while, because the machine is busy, sees its
// timers before the answers that have arrived meanwhile; so the second half begins when it runs again.
func (c *call) wait(ctx context.Context, budget time.Duration) (Decision, error) {
	timer := timers.Get().(*time.Timer)
	defer func() {
		timer.Stop()
		timers.Put(timer)
	}()
	err := errBudget
	for range 2 {
		timer.Reset(budget / 2)
		select {
		case <-c.answered:
			return c.decision, c.err
		case <-timer.C:
			continue
		case <-ctx.Done():
			err = ctx.Err()
		}
		break
	}
	if c.leave() {
		return Decision{}, err
	}
	<-c.answered
	return c.decision, c.err
}

// leave makes the call a late one. It returns false if the answer is here already.
func (c *call) leave() bool {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return false
	}
	detached := c.limiter.options.Detach(context.WithoutCancel(c.request))
	c.detached.Store(&detached)
	c.late = true
	c.expiry = time.AfterFunc(time.Until(c.deadline), func() { c.cancel(context.DeadlineExceeded) })
	tooMany := c.limiter.late.add(c)
	c.mu.Unlock()
	if tooMany {
		c.cancel(errLate)
	}
	return true
}

// cancel ends the call where it waits for a connection; where it waits for an answer, its deadline does.
func (c *call) cancel(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = cause
		close(c.canceled)
	}
}

// Deadline, Done, Err and Value make it a context.
func (c *call) Deadline() (time.Time, bool) { return c.deadline, true }

// Done is closed when the call is to end.
func (c *call) Done() <-chan struct{} { return c.canceled }

// Err is why it is to end.
func (c *call) Err() error {
	select {
	case <-c.canceled:
		return c.cause
	default:
		return nil
	}
}

// Value is the caller's, or once the call is late the background's.
func (c *call) Value(key any) any {
	if detached := c.detached.Load(); detached != nil {
		return (*detached).Value(key)
	}
	return c.request.Value(key)
}

// lateCalls are the calls whose callers no longer wait.
type lateCalls struct {
	most  int
	count atomic.Int64

	mu    sync.Mutex
	calls map[*call]struct{}
	// stopped says that calls which become late are to be canceled.
	stopped bool
	// empty is closed when the last call has ended, if something waits for that.
	empty chan struct{}
}

// full says that no more may become late.
func (s *lateCalls) full() bool { return s.count.Load() >= int64(s.most) }

// add returns true if the call must be canceled: more have become late at once than may.
func (s *lateCalls) add(c *call) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil {
		s.calls = map[*call]struct{}{}
	}
	s.calls[c] = struct{}{}
	s.count.Store(int64(len(s.calls)))
	return s.stopped || len(s.calls) > s.most
}

func (s *lateCalls) remove(c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, c)
	s.count.Store(int64(len(s.calls)))
	if len(s.calls) == 0 && s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
}

// wait returns once no call is late. If the context ends before, it cancels them and returns the context's error.
func (s *lateCalls) wait(ctx context.Context) error {
	s.mu.Lock()
	if len(s.calls) == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
	empty := s.empty
	s.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.stopped = true
	var left []*call
	for c := range s.calls {
		left = append(left, c)
	}
	s.mu.Unlock()
	for _, c := range left {
		c.cancel(context.Canceled)
	}
	return ctx.Err()
}
