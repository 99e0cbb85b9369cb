package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"nervous/app/identity"
	"nervous/app/servicetest"
	"nervous/app/servicetest/otlp"
)

// mostSeries is how many data points one replica may export at a time, however many call it; of a histogram Prometheus
// makes one series for each bucket.
const mostSeries = 400

// Who calls, and with what, makes no series: there are as many after 10,000 users and 1,000 keys as after a few of
// each.
func TestSeriesDoNotGrowWithTheCallers(t *testing.T) {
	t.Parallel()
	received := otlp.Receive(t)
	replica := startReplica(t, "one", map[string]string{
		"DATABASE_URL": hundredPayments(t), "REDIS_URL": servicetest.Redis(t).URL(),
		"OTEL_EXPORTER_OTLP_ENDPOINT": received.URL(), "TRUSTED_PROXIES": "127.0.0.0/8", "RATELIMIT_LIMIT": "100",
		"RECONCILE_COUNT_EVERY": "1s",
	})
	crowd := crowd{replica.url, identity.New(tokenSecret)}
	require.NoError(t, crowd.call(t.Context(), 0, 144))
	for range 120 { // who asks too often
		require.NoError(t, crowd.one(t.Context(), http.DefaultClient, 8))
	}
	received.Until(t, "what the replica does now and then", func() bool {
		return slices.ContainsFunc(received.Points("telemetry.calls"), func(p otlp.Point) bool {
			return p.Attributes["operation"] == "PING" // of a connection that has subscribed, every three seconds
		})
	})
	received.Until(t, "a flush", func() bool { return len(received.Points("buffer.flushes")) > 0 })
	few := seriesAfterTwoExports(t, received)
	require.NoError(t, crowd.call(t.Context(), 144, 12_000))
	many := seriesAfterTwoExports(t, received)
	var grown []string
	for series := range many {
		if !few[series] {
			grown = append(grown, series)
		}
	}
	// A rare event, such as a wait for a connection, may happen in the second load first. Callers and keys are thousands.
	require.Less(t, len(grown), 10, "series that were not there before: %v", grown)
	require.Less(t, len(many), mostSeries)
	t.Logf("%d series", len(many))
}

// seriesAfterTwoExports: the second began after this was called, so it has all of what was done before.
func seriesAfterTwoExports(t *testing.T, received *otlp.Receiver) map[string]bool {
	t.Helper()
	exports := received.Exports()
	received.Until(t, "two more exports of metrics", func() bool { return received.Exports() >= exports+2 })
	series := map[string]bool{}
	for _, p := range received.Points("") {
		series[fmt.Sprint(p.Metric, p.Attributes)] = true
	}
	return series
}

// crowd are callers who have nothing in common: users, addresses, paths, hosts, programs, methods.
type crowd struct {
	url    string
	tokens identity.Tokens
}

func (c crowd) call(ctx context.Context, from, to int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	client := &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: time.Minute,
	}
	for i := from; i < to; i++ {
		group.Go(func() error { return c.one(ctx, client, i) })
	}
	return group.Wait()
}

func (c crowd) one(ctx context.Context, client *http.Client, i int) error {
	key := 1 + i%1000
	asked := []struct{ method, path string }{
		{http.MethodGet, "/posts/trending"}, {http.MethodGet, fmt.Sprintf("/posts/trending?window=%d", key)},
		{http.MethodPost, fmt.Sprintf("/payments/%d/settled", key)}, {http.MethodGet, fmt.Sprintf("/nowhere/%d", key)},
		{fmt.Sprintf("METHOD%d", key), "/"}, {http.MethodGet, fmt.Sprintf("/posts/trending?strategy=%d", key)},
	}[i%6]
	request, err := http.NewRequestWithContext(ctx, asked.method, c.url+asked.path, nil)
	if err != nil {
		return err
	}
	request.Host = fmt.Sprintf("host-%d.example", key)
	request.Header.Set("User-Agent", fmt.Sprintf("program/%d", key))
	request.Header.Set("X-Forwarded-For", fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
	if i/6%6 != 0 { // of 12,000 calls 10,000
		token, err := c.tokens.Mint(identity.Caller{User: fmt.Sprintf("user-%d", i)}, time.Hour)
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	allowed := []int{
		http.StatusOK, http.StatusAccepted, http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed,
		http.StatusTooManyRequests,
	}
	if !slices.Contains(allowed, answer.StatusCode) {
		return fmt.Errorf("%s %s: %s", asked.method, asked.path, answer.Status)
	}
	return nil
}
