package ratelimit

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// Policy is the settings of one limit: a caller may spend at most Limit units within any Window. Limiter.Policy checks
// them once and returns what Check takes.
type Policy struct {
	// Name tells the policies of one caller apart, in Redis and in telemetry. It becomes a metric attribute, so it comes
	// from a small fixed set. Any text but the empty one.
	Name string

	// Limit is how many units a Window holds, from 1 to MaxLimit. The log of a caller who has spent all of it takes about
	// ten bytes a unit in Redis.
	Limit int64

	// Window is how long a unit counts after it was spent, from a millisecond to MaxWindow.
	Window time.Duration

	// Strategy is how units are counted. Defaults to Exact.
	Strategy Strategy

	// Fallback is what happens while Redis does not answer. Defaults to Local.
	Fallback Fallback
}

const (
	// MaxLimit bounds Policy.Limit and so the cost of one check: Redis works about a millisecond for a cost of 10,000,
	// and serves no other client meanwhile.
	MaxLimit = 100_000
	// MaxWindow bounds Policy.Window: the sum of a time and a window in µs is exact in Lua, which has only doubles.
	MaxWindow = 10 * 365 * 24 * time.Hour
)

// Strategy names a way to count.
type Strategy string

const (
	// FixedWindow counts by windows that begin with the clock's: the classic INCR. Around the end of a window it admits
	// nearly twice the limit within a moment; it is here to show that.
	FixedWindow Strategy = "fixed_window"
	// Exact keeps when each unit was spent (a sliding log), and so admits at most the limit in every window.
	Exact Strategy = "exact"
)

// Strategies lists all strategies, from naive to exact.
func Strategies() []Strategy { return []Strategy{FixedWindow, Exact} }

// UnmarshalText accepts the name of a strategy.
func (s *Strategy) UnmarshalText(text []byte) error { return oneOf(s, text, "strategy", Strategies()) }

// Fallback names what to do while Redis does not answer.
type Fallback string

const (
	// Local counts in this process, and admits the limit divided by the number of replicas that were last known to live,
	// at least one unit.
	Local Fallback = "local"
	// Open admits everything: for a limit that may be exceeded.
	Open Fallback = "open"
	// Closed denies everything: for a limit that must not be exceeded.
	Closed Fallback = "closed"
)

// Fallbacks lists all of them.
func Fallbacks() []Fallback { return []Fallback{Local, Open, Closed} }

// UnmarshalText accepts the name of a fallback.
func (f *Fallback) UnmarshalText(text []byte) error { return oneOf(f, text, "fallback", Fallbacks()) }

func oneOf[T ~string](target *T, text []byte, kind string, names []T) error {
	if !slices.Contains(names, T(text)) {
		return fmt.Errorf("there is no %s %q, only %s", kind, text, list(names))
	}
	*target = T(text)
	return nil
}

func list[T ~string](names []T) string {
	var known []string
	for _, name := range names {
		known = append(known, string(name))
	}
	return strings.Join(known, ", ")
}

// CompiledPolicy is a policy that was checked, with everything that a check needs of it computed once. It is made by
// Limiter.Policy, safe for concurrent use, and lives as long as the process.
type CompiledPolicy struct {
	settings Policy

	// suffix ends the key of what a caller has spent, and suffixes those by every strategy.
	suffix   string
	suffixes []string
	// args are the policy's in check.lua.
	args [3]any
	// id is a hash of name and strategy.
	id uint64

	// decisions and checkTime are the attributes of the instruments, by result and source.
	decisions outcomes[metric.AddOption]
	checkTime outcomes[metric.RecordOption]
}

// Policy checks the settings and returns the policy that Check and Reset take. The error lists every fault. Compile a
// policy once, at the start of the program: two of the same settings are the same limit.
func (l *Limiter) Policy(p Policy) (*CompiledPolicy, error) {
	defaultTo(&p.Strategy, Exact)
	defaultTo(&p.Fallback, Local)
	if err := p.validate(); err != nil {
		return nil, err
	}
	c := &CompiledPolicy{
		settings: p, suffix: p.suffix(),
		args: [3]any{string(p.Strategy), p.Limit, p.Window.Microseconds()},
		id:   maphash.String(seed, p.suffix()),
	}
	for _, s := range Strategies() {
		p.Strategy = s
		c.suffixes = append(c.suffixes, p.suffix())
	}
	c.describe()
	return c, nil
}

var seed = maphash.MakeSeed()

// Settings returns what the policy was compiled from, with the defaults filled in.
func (c *CompiledPolicy) Settings() Policy { return c.settings }

// suffix has the name escaped, so that no two policies have the same keys.
func (p Policy) suffix() string { return "}:" + escape(p.Name) + ":" + string(p.Strategy) }

func (p Policy) validate() error {
	var faults []error
	unless := func(right bool, format string, values ...any) {
		if !right {
			faults = append(faults, fmt.Errorf("rate limit: policy %q: "+format, append([]any{p.Name}, values...)...))
		}
	}
	unless(p.Name != "", "Name is empty, set one")
	unless(p.Limit >= 1 && p.Limit <= MaxLimit, "Limit is %d, it must be from 1 to %d", p.Limit, int64(MaxLimit))
	unless(p.Window >= time.Millisecond && p.Window <= MaxWindow,
		"Window is %v, it must be from %v to %v", p.Window, time.Millisecond, MaxWindow)
	unless(slices.Contains(Strategies(), p.Strategy),
		"Strategy is %q, it must be one of %s", p.Strategy, list(Strategies()))
	unless(slices.Contains(Fallbacks(), p.Fallback),
		"Fallback is %q, it must be one of %s", p.Fallback, list(Fallbacks()))
	return errors.Join(faults...)
}
