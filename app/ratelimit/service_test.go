package ratelimit_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"

	"nervous/app/ratelimit"
	"nervous/app/servicetest"
	"nervous/app/servicetest/replica"
)

func TestMain(m *testing.M) {
	logging.Disable() // go-redis reports every fault that we inject, and so does Run
	slog.SetDefault(slog.New(slog.DiscardHandler))
	replica.Serve(newService)
	servicetest.Parallel(6)
	m.Run()
}

// settings are a replica's.
type settings struct {
	Network           network
	Replica           string
	Budget, Heartbeat time.Duration
	// Deaf replicas do not Run: the news that they are subscribed makes them forget, at a moment that a test that counts
	// what is remembered cannot know.
	Deaf bool
}

// newService is a small service around one limiter.
func newService(s settings, seen *replica.Telemetry) any {
	l := ratelimit.New(s.Network.client(), ratelimit.Options{
		Replica: s.Replica, Budget: s.Budget, Heartbeat: s.Heartbeat,
		TracerProvider: seen.TracerProvider, MeterProvider: seen.MeterProvider,
	})
	if !s.Deaf {
		go func() { _ = l.Run(context.Background()) }()
	}
	return &service{l}
}

// service is what the test can ask of a replica; net/rpc prescribes the form of its methods.
type service struct{ limiter *ratelimit.Limiter }

func (s *service) compile(policies []ratelimit.Policy) (compiled []*ratelimit.CompiledPolicy) {
	for _, p := range policies {
		c, err := s.limiter.Policy(p)
		if err != nil {
			panic(err) // a fault of the test
		}
		compiled = append(compiled, c)
	}
	return compiled
}

// Ask is one check.
type Ask struct {
	Caller   string
	Cost     int64
	Policies []ratelimit.Policy
}

// Check answers with the decision.
func (s *service) Check(a Ask, d *ratelimit.Decision) (err error) {
	*d, err = s.limiter.Check(context.Background(), a.Caller, a.Cost, s.compile(a.Policies)...)
	return err
}

// Reset forgets a caller.
func (s *service) Reset(a Ask, _ *struct{}) error {
	return s.limiter.Reset(context.Background(), a.Caller, s.compile(a.Policies)...)
}

// Burst is a number of clients who all spend a unit after the other of the same caller's, as fast as they can, from one
// moment until another (Unix nanoseconds).
type Burst struct {
	Ask
	Clients     int
	From, Until int64
}

// Sent is one check, by when it was sent and when its answer had come.
type Sent struct{ Sent, Received int64 }

// Spent is what they got.
type Spent struct {
	Admitted                 []Sent
	Denied, Asked, Fallbacks int
}

// Spend answers when the burst is over.
func (s *service) Spend(b Burst, all *Spent) error {
	policies := s.compile(b.Policies)
	var mu sync.Mutex
	var clients sync.WaitGroup
	for range b.Clients {
		clients.Go(func() {
			for wait := time.Until(time.Unix(0, b.From)); time.Now().Add(wait).UnixNano() < b.Until; {
				<-time.After(wait)
				sent := time.Now()
				d, err := s.limiter.Check(context.Background(), b.Caller, b.Cost, policies...)
				received := time.Now()
				if err != nil {
					panic(err) // nobody ends the context
				}
				wait = d.Wait()
				mu.Lock()
				switch {
				case d.Source == ratelimit.FromFallback:
					all.Fallbacks++
				case d.Allowed:
					all.Admitted = append(all.Admitted, Sent{sent.UnixNano(), received.UnixNano()})
				default:
					all.Denied++
				}
				if d.Source == ratelimit.FromRedis {
					all.Asked++
				}
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	return nil
}

// process is a replica, seen from the test.
type process struct{ *replica.Process }

// startProcess starts a replica, which waits for Redis as long as it takes unless its settings say otherwise.
func startProcess(t *testing.T, b backend, s settings) process {
	t.Helper()
	if s.Network.Redis == nil {
		s.Network = b.network()
	}
	if s.Budget == 0 {
		s.Budget = timeout
	}
	return process{replica.Start(t, patience, s)}
}

func (p process) check(who string, cost int64, policies ...ratelimit.Policy) (d ratelimit.Decision) {
	p.Call("Check", Ask{who, cost, policies}, &d)
	return d
}
