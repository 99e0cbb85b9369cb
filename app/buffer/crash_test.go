package buffer_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
)

// lease is long enough that a busy machine does not lose one by chance, and short enough to wait for.
const lease = 3 * time.Second

// often is how often a worker that runs looks what there is to do.
const often = 50 * time.Millisecond

// A worker is killed after each step of the protocol. Another one, which has never heard of it, finishes what it had
// begun, and does nothing twice.
func TestAWorkerThatIsKilled(t *testing.T) {
	onEveryBackend(t, func(t *testing.T, b backend) {
		for _, point := range buffer.Points {
			t.Run("when "+point, func(t *testing.T) {
				t.Parallel()
				l := newLedger(t, payments+100)
				// A family of its own: whoever recovers a family recovers all of it.
				s := settings{Family: "killed when " + point, Lease: lease, FlushAge: often}
				member := s.Family + ":" + live

				doomed := s
				doomed.StopAt = point
				switch point {
				case "added":
					p := startProcess(t, b, l, doomed)
					go func() { _ = p.Try("Add", Payments{live, 1, payments}, new(string)) }()
					p.reached()
					p.Kill()
				case "claimed":
					b.abandon(t, l, s, payments)
					doomed.Run = true
					p := startProcess(t, b, l, doomed)
					p.reached()
					p.Kill()
				default:
					p := startProcess(t, b, l, doomed)
					p.add(live, 1, payments)
					p.beginFlush()
					p.reached()
					p.Kill()
				}

				successor := s
				successor.Run = true
				if point == "added" { // no flush had begun; what has to be found is found without being named
					successor.Continuous = []string{live}
				}
				p := startProcess(t, b, l, successor)
				b.empty(t, member)
				eventually(t, func() bool { return len(p.flushes()) == len(whoeverRecovers[point]) })
				require.Equal(t, whoeverRecovers[point], p.flushes())
				l.holds(t, 1, payments)
				require.Equal(t, 1, l.generations(t))
			})
		}
	})
}

// whoeverRecovers has this to do after another was killed at a point.
var whoeverRecovers = map[string]map[string]float64{
	"added":          {"committed cut": 1},
	"cut":            {"committed recovered": 1},
	"claimed":        {"committed recovered": 1},
	"in transaction": {"committed recovered": 1},
	"committed":      {"replayed recovered": 1},
	"acknowledged":   {},
}

// abandon leaves a generation of the live buffer without a flusher: the payments up to the last, and what was open.
func (b backend) abandon(t *testing.T, l *ledger, s settings, last int64) {
	t.Helper()
	s.StopAt, s.Run = "cut", false
	p := startProcess(t, b, l, s)
	p.add(live, 1, last)
	p.beginFlush()
	p.reached()
	p.Kill()
}
