package ratelimit

import "time"

// spent is what one caller has spent of one policy. The zero value is nothing.
type spent struct {
	// log is when each unit was spent, newest first, in µs. It is the state of Exact.
	log []int64

	// window is the number of a window since the clock's zero, and count what was spent in it: the state of FixedWindow.
	window, count int64
}

// decide says what each policy holds of a cost at a time in µs, and returns what has been spent afterwards: the cost
// from every policy, or from none.
//
// It is the specification of the limiter, what check.lua does in Redis, and what decides while Redis is away. It takes
// the time and the state as arguments, so that both can be held to the same cases.
//
// For Exact, a unit that is spent at a time t counts before t + window and not from then on. A cost is admitted if with
// it no more than the limit count, so no interval [t, t + window) ever holds more; and it is denied only if with it
// more would.
func decide(now, cost int64, policies []Policy, before []spent) (verdicts []Verdict, after []spent) {
	admitted := true
	var counting []spent
	for i, p := range policies {
		moved := before[i].setBack(now)
		s := moved.at(now, p)
		v := Verdict{Policy: p}
		if s.used()+cost > p.Limit {
			v.Wait, admitted = s.untilOnly(p.Limit-cost, now, p), false
		}
		verdicts, counting, after = append(verdicts, v), append(counting, s), append(after, moved)
	}
	for i, p := range policies {
		s := counting[i]
		if admitted {
			s = s.and(cost, now, p)
			after[i] = s
		}
		verdicts[i].Remaining = max(0, p.Limit-s.used())
		if s.used() > 0 {
			verdicts[i].Reset = s.untilOnly(min(s.used(), p.Limit)-1, now, p)
		}
	}
	return verdicts, after
}

// setBack returns it by a clock that shows that time.
//
// If the clock was set back, the log goes back with it, so that its newest entry is now. Each entry then seems younger
// than it is, by at most the size of the step: never is more admitted than without the step, and nobody waits longer
// than a window for it, however large it was. Of a clock that was set forward nothing can be known: the entries seem
// older than they are, and up to the limit is admitted once more.
func (s spent) setBack(now int64) spent {
	if len(s.log) == 0 || s.log[0] <= now {
		return s
	}
	log := make([]int64, len(s.log))
	for i, t := range s.log {
		log[i] = t - (s.log[0] - now)
	}
	return spent{log: log}
}

// at returns what of it counts at that time.
func (s spent) at(now int64, p Policy) spent {
	if p.Strategy == FixedWindow {
		if current := now / p.Window.Microseconds(); s.window != current {
			return spent{window: current}
		}
		return s
	}
	log := s.log
	for len(log) > 0 && log[len(log)-1] <= now-p.Window.Microseconds() {
		log = log[:len(log)-1]
	}
	return spent{log: log}
}

// used is how many units of it there are.
func (s spent) used() int64 { return int64(len(s.log)) + s.count }

// and returns it with a cost that is spent now.
func (s spent) and(cost, now int64, p Policy) spent {
	if p.Strategy == FixedWindow {
		s.count += cost
		return s
	}
	log := make([]int64, cost, int(cost)+len(s.log))
	for i := range log {
		log[i] = now
	}
	return spent{log: append(log, s.log...)}
}

// untilOnly returns how long until only so many units of it still count.
func (s spent) untilOnly(left, now int64, p Policy) time.Duration {
	window := p.Window.Microseconds()
	end := (s.window + 1) * window
	if p.Strategy != FixedWindow {
		end = s.log[left] + window
	}
	return time.Duration(end-now) * time.Microsecond
}
