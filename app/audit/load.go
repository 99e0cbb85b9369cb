package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Mixed is a load through the whole surface of the demo: every strategy of trending, of reconcile and of the rate
// limit, cold and warm, live events, denials, and requests that are wrong. It makes payments pending again, and memory
// cold. On two cores with the full data it takes about half a minute, most of it for the naive strategies.
type Mixed struct {
	// Doors are the base URLs that the load is sent to, each as likely as the others: a front door, or all replicas.
	Doors []string
	// Bearer mints what the user shows in Authorization, with the scope reconcile.
	Bearer func(user string) (string, error)

	user int
}

// Run runs the load. An answer that is not one of those that its request may have is an error.
func (m *Mixed) Run(ctx context.Context) error {
	for _, part := range []func(context.Context) error{m.trending, m.limits, m.events, m.runs, m.mistakes} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// trending asks each strategy for cold answers, all at once, and then for warm ones. The naive ones run the query for
// each request, which takes a second, so they are asked by few.
func (m *Mixed) trending(ctx context.Context) error {
	for _, ask := range []struct {
		strategy   string
		cold, warm int
	}{{"n_plus_one", 3, 0}, {"preload", 3, 0}, {"ttl", 6, 100}, {"lease", 60, 100}} {
		if err := m.ask(ctx, request{method: http.MethodDelete, path: "/posts/trending"}); err != nil {
			return err
		}
		r := request{method: http.MethodGet, path: "/posts/trending?strategy=" + ask.strategy}
		for _, requests := range []int{ask.cold, ask.warm} {
			if err := m.atOnce(ctx, requests, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// limits spends one user's limit and more, by each strategy: the last denials are remembered and ask nobody.
func (m *Mixed) limits(ctx context.Context) error {
	for _, strategy := range []string{"exact", "fixed_window", "off"} {
		abuser := m.nextUser()
		for range 3 {
			err := m.atOnce(ctx, 50, request{method: http.MethodGet, path: "/", user: abuser, limitedBy: strategy,
				mayBe: []int{http.StatusTooManyRequests}})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// events settle payments one by one.
func (m *Mixed) events(ctx context.Context) error {
	for payment := range 50 {
		path := fmt.Sprintf("/payments/%d/settled", payment+1)
		err := m.ask(ctx, request{method: http.MethodPost, path: path, mayBe: []int{http.StatusNotFound}})
		if err != nil {
			return err
		}
	}
	return nil
}

// runs reconciles by each strategy; the naive ones, which need a round-trip a payment, only some.
func (m *Mixed) runs(ctx context.Context) error {
	for _, by := range []struct {
		strategy string
		limit    string // of the payments, as JSON
	}{{"buffered", "null"}, {"single_statement", "null"}, {"n_plus_one", "2000"}, {"batched_reads", "2000"}} {
		if err := m.run(ctx, by.strategy, by.limit); err != nil {
			return err
		}
	}
	return m.ask(ctx, request{method: http.MethodGet, path: "/payments"})
}

// run makes payments pending, starts a run and stays with it to its end.
func (m *Mixed) run(ctx context.Context, strategy, limit string) error {
	if err := m.ask(ctx, request{method: http.MethodDelete, path: "/reconcile"}); err != nil {
		return err
	}
	var run struct{ ID, State string }
	order := fmt.Sprintf(`{"strategy":%q,"limit":%s}`, strategy, limit)
	if err := m.ask(ctx, request{method: http.MethodPost, path: "/reconcile", body: order, into: &run}); err != nil {
		return err
	}
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for run.State == "running" {
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := m.ask(ctx, request{method: http.MethodGet, path: "/reconcile/" + run.ID, into: &run}); err != nil {
			return err
		}
	}
	if run.State != "done" {
		return fmt.Errorf("the run by %s is %s", strategy, run.State)
	}
	return nil
}

// mistakes are answered too, and counted like everything else.
func (m *Mixed) mistakes(ctx context.Context) error {
	for _, wrong := range []request{
		{method: http.MethodGet, path: "/posts/trending?strategy=magic", mayBe: []int{http.StatusBadRequest}},
		{method: http.MethodGet, path: "/nowhere", mayBe: []int{http.StatusNotFound}},
		{method: http.MethodPost, path: "/posts/trending", mayBe: []int{http.StatusMethodNotAllowed}},
		{method: http.MethodPost, path: "/reconcile", body: "{", mayBe: []int{http.StatusBadRequest}},
	} {
		if err := m.ask(ctx, wrong); err != nil {
			return err
		}
	}
	return nil
}

// request is what is sent, and what its answer may be besides a success.
type request struct {
	method, path, body string
	user               string // a new one if empty
	limitedBy          string // the rate limit's strategy, if not the default
	mayBe              []int
	into               any
}

func (m *Mixed) atOnce(ctx context.Context, times int, r request) error {
	group, ctx := errgroup.WithContext(ctx)
	for range times {
		mine := r
		if mine.user == "" {
			mine.user = m.nextUser()
		}
		group.Go(func() error { return m.ask(ctx, mine) })
	}
	return group.Wait()
}

// nextUser is somebody whose limit is not spent, also when the load runs again within a minute.
func (m *Mixed) nextUser() string {
	if m.user == 0 {
		m.user = rand.IntN(1_000_000_000)
	}
	m.user++
	return fmt.Sprintf("audit-%d", m.user)
}

func (m *Mixed) ask(ctx context.Context, r request) error {
	if r.user == "" {
		r.user = m.nextUser()
	}
	bearer, err := m.Bearer(r.user)
	if err != nil {
		return err
	}
	address := strings.TrimRight(m.Doors[rand.IntN(len(m.Doors))], "/") + r.path
	sent, err := http.NewRequestWithContext(ctx, r.method, address, bytes.NewBufferString(r.body))
	if err != nil {
		return err
	}
	sent.Header.Set("Authorization", bearer)
	sent.Header.Set("Content-Type", "application/json")
	if r.limitedBy != "" {
		sent.Header.Set("X-RateLimit-Strategy", r.limitedBy)
	}
	answer, err := http.DefaultClient.Do(sent)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode >= http.StatusBadRequest && !slices.Contains(r.mayBe, answer.StatusCode) {
		return fmt.Errorf("%s %s: %s %s", r.method, address, answer.Status, body)
	}
	if r.into == nil || answer.StatusCode >= http.StatusBadRequest {
		return nil
	}
	return json.Unmarshal(body, r.into)
}
