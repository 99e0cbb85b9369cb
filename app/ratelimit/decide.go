package ratelimit

import "time"

// run is a number of units that were spent at the same time, in µs.
type run struct{ at, units int64 }

// spent is what one caller has spent of one policy. The zero value is nothing.
type spent struct {
	// log is when units were spent, oldest first. It is the state of Exact. units is their sum.
	log   []run
	units int64

	// window is the number of a window since the clock's zero, and count what was spent in it: the state of FixedWindow.
	window, count int64
}

// decide says what each policy holds of a cost at a time in µs, and spends the cost from every state, or from none.
//
// It is the specification of the limiter: check.lua does the same in Redis, and this function decides while Redis is
// not available. It takes the time and the state as arguments, so that both can be held to the same cases.
//
// The algorithm of Exact is the sliding log: a unit that is spent at a time t counts before t + window and not from
// then on. A cost is admitted if and only if with it no more than the limit count, so no interval [t, t + window) ever
// holds more.
func decide(now, cost int64, policies []Policy, states []*spent) []Verdict {
	verdicts := make([]Verdict, len(policies))
	admitted := true
	for i, p := range policies {
		s := states[i]
		s.setBack(now)
		verdicts[i].Policy = p
		if expired, used := s.counting(now, p); used+cost > p.Limit {
			verdicts[i].Wait, admitted = s.untilOnly(p.Limit-cost, expired, used, now, p), false
		}
	}
	for i, p := range policies {
		s := states[i]
		if admitted {
			s.spend(cost, now, p)
		}
		expired, used := s.counting(now, p)
		verdicts[i].Remaining = max(0, p.Limit-used)
		if used > 0 {
			verdicts[i].Reset = s.untilOnly(min(used, p.Limit)-1, expired, used, now, p)
		}
	}
	return verdicts
}

// setBack corrects the state if the clock shows a time before the newest entry: all entries are moved back by the same
// step, so that the newest is now. Each then seems younger than it is, by at most the step: no more is admitted than
// without the step, and no caller waits longer than a window because of it. A clock that was set forward cannot be
// detected: the entries seem older than they are, and up to the limit is admitted once more.
func (s *spent) setBack(now int64) {
	if len(s.log) == 0 {
		return
	}
	step := s.log[len(s.log)-1].at - now
	if step <= 0 {
		return
	}
	for i := range s.log {
		s.log[i].at -= step
	}
}

// counting returns how many runs have expired and how many units still count. It changes nothing.
func (s *spent) counting(now int64, p Policy) (expired int, used int64) {
	if p.Strategy == FixedWindow {
		if s.window != now/p.Window.Microseconds() {
			return 0, 0
		}
		return 0, s.count
	}
	used = s.units
	for expired < len(s.log) && s.log[expired].at <= now-p.Window.Microseconds() {
		used -= s.log[expired].units
		expired++
	}
	return expired, used
}

// spend adds a cost that is spent now, and drops what has expired.
func (s *spent) spend(cost, now int64, p Policy) {
	expired, used := s.counting(now, p)
	if p.Strategy == FixedWindow {
		s.window, s.count = now/p.Window.Microseconds(), used+cost
		return
	}
	s.log, s.units = s.log[expired:], used+cost
	if last := len(s.log) - 1; last >= 0 && s.log[last].at == now {
		s.log[last].units += cost
		return
	}
	s.log = append(s.log, run{now, cost})
}

// untilOnly returns how long until only so many of the used units still count.
func (s *spent) untilOnly(left int64, expired int, used, now int64, p Policy) time.Duration {
	window := p.Window.Microseconds()
	end := (s.window + 1) * window
	if p.Strategy != FixedWindow {
		i := expired
		for used -= s.log[i].units; used > left; used -= s.log[i].units {
			i++
		}
		end = s.log[i].at + window
	}
	return time.Duration(end-now) * time.Microsecond
}
