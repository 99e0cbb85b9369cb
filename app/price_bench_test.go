package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
	"nervous/app/telemetry"
)

// What telemetry costs a cache hit: each way of it beside none.
var telemetries = []struct {
	name      string
	variables []string
}{
	{"off", []string{"OTEL_SDK_DISABLED=true"}},
	{"metrics", []string{"OTEL_TRACES_EXPORTER=none"}},
	// A tenth of the requests, chosen in the app. The calls of the others are invisible, so it is no choice of ours.
	{"thinned", []string{"OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.1"}},
	{"everything", nil}, // the default; the collector thins
}

// BenchmarkPrice asks all ways in turns, 8 at once over loopback, and compares within each turn, because machines are
// noisy: throughput and p99 as multiples of those without telemetry, medians over the turns. `bare` is Echo and a GET
// with go-redis, which answers as many bytes and does nothing else. The rate limit, which is another call to Redis, is
// off. An iteration is a turn.
//
//	go test -run '^$' -bench Price -benchtime 15x ./app
func BenchmarkPrice(b *testing.B) {
	environment := pricedEnvironment(b)
	ways := map[string]string{"bare": "http://" + startBare(b, environment)}
	for _, way := range telemetries {
		ways[way.name] = startReplica(b, way.name, withVariables(environment, way.variables)).url
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	for _, url := range ways {
		hits := func() bool { return askForHit(b.Context(), client, url) == nil }
		require.Eventually(b, hits, 20*time.Second, time.Millisecond)
		askForHits(b, client, url, 200) // warm: the connections, the code
	}
	faster, slower := map[string][]float64{}, map[string][]float64{}
	for b.Loop() {
		paces := map[string]pace{}
		for name, url := range ways {
			paces[name] = askForHits(b, client, url, 2000)
		}
		for name, p := range paces {
			faster[name] = append(faster[name], p.perSecond/paces["off"].perSecond)
			slower[name] = append(slower[name], p.p99/paces["off"].p99)
		}
	}
	for name := range ways {
		b.ReportMetric(median(faster[name]), name+"-throughput")
		b.ReportMetric(median(slower[name]), name+"-p99")
	}
}

// BenchmarkPriceAllocations counts what one hit allocates in the handler and whatever works behind it, by telemetry;
// the request and the recorder of its answer, which are the same for all, are in it.
func BenchmarkPriceAllocations(b *testing.B) {
	environment := pricedEnvironment(b)
	for b.Loop() {
		for _, way := range telemetries {
			cmd := exec.CommandContext(b.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), allocationsVariable+"=1")
			for name, value := range withVariables(environment, way.variables) {
				cmd.Env = append(cmd.Env, name+"="+value)
			}
			cmd.Stderr = b.Output()
			out, err := cmd.Output()
			require.NoError(b, err)
			var counted allocated
			require.NoError(b, json.Unmarshal(out, &counted))
			b.ReportMetric(counted.Allocations, way.name+"-allocs")
			b.ReportMetric(counted.Bytes, way.name+"-B")
		}
	}
}

// pricedEnvironment has a collector that takes everything and looks at nothing.
func pricedEnvironment(b *testing.B) map[string]string {
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	b.Cleanup(collector.Close)
	b.Cleanup(collector.CloseClientConnections)
	return map[string]string{
		"DATABASE_URL": tenPosts(b), "REDIS_URL": servicetest.Redis(b).URL(), "TOKEN_SECRET": tokenSecret,
		"DEMO": "true", "REDIS_TIMEOUT": "5s", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL,
		"TRENDING_TTL": "1h", "OTEL_METRIC_EXPORT_INTERVAL": "5000", "OTEL_BSP_SCHEDULE_DELAY": "1000",
	}
}

func withVariables(environment map[string]string, variables []string) map[string]string {
	all := maps.Clone(environment)
	for _, variable := range variables {
		name, value, _ := strings.Cut(variable, "=")
		all[name] = value
	}
	return all
}

type pace struct {
	perSecond float64
	p99       float64 // seconds
}

// askForHits sends requests by eight users at once.
func askForHits(b *testing.B, client *http.Client, url string, requests int) pace {
	const users = 8
	took := make([][]float64, users)
	begun := time.Now()
	var group sync.WaitGroup
	for user := range users {
		group.Go(func() {
			for range requests / users {
				sent := time.Now()
				if err := askForHit(b.Context(), client, url); err != nil {
					b.Error(err)
					return
				}
				took[user] = append(took[user], time.Since(sent).Seconds())
			}
		})
	}
	group.Wait()
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	return pace{float64(requests) / time.Since(begun).Seconds(), all[len(all)*99/100]}
}

func hitRequest(ctx context.Context, url string) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/posts/trending?strategy=lease", nil)
	if err == nil {
		request.Header.Set("X-RateLimit-Strategy", "off")
	}
	return request, err
}

func askForHit(ctx context.Context, client *http.Client, url string) error {
	request, err := hitRequest(ctx, url)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	length, err := io.Copy(io.Discard, answer.Body)
	if err != nil {
		return err
	}
	return checkHit(answer.StatusCode, answer.Header, int(length))
}

// answerLength is the length of tenPosts as they are answered. The bare handler sends as many bytes.
const answerLength = 1536

func checkHit(status int, header http.Header, length int) error {
	isHit := strings.Contains(header.Get("Cache-Status"), "; hit")
	if status != http.StatusOK || !isHit || length != answerLength {
		return fmt.Errorf("%d %q with %d bytes is no hit", status, header.Get("Cache-Status"), length)
	}
	return nil
}

func median(values []float64) float64 { return slices.Sorted(slices.Values(values))[len(values)/2] }

// bareVariable makes this test binary the bare handler, at the address that it says.
const bareVariable = "BARE_HANDLER"

func startBare(b *testing.B, environment map[string]string) (address string) {
	address = freeAddress(b)
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), bareVariable+"="+address, "REDIS_URL="+environment["REDIS_URL"])
	cmd.Stderr = b.Output()
	require.NoError(b, cmd.Start())
	servicetest.Guard(b, cmd.Process.Pid)
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	require.Eventually(b, func() bool {
		return askForHit(b.Context(), http.DefaultClient, "http://"+address) == nil
	}, 20*time.Second, 10*time.Millisecond)
	return address
}

// serveBare is Echo and a GET, and an answer of the size of trending's.
func serveBare(address string) error {
	options, err := redis.ParseURL(os.Getenv("REDIS_URL"))
	if err != nil {
		return err
	}
	rdb := redis.NewClient(options)
	if err := rdb.Set(context.Background(), "bare", strings.Repeat("x", answerLength), 0).Err(); err != nil {
		return err
	}
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.GET("/posts/trending", func(c echo.Context) error {
		value, err := rdb.Get(c.Request().Context(), "bare").Bytes()
		if err != nil {
			return err
		}
		c.Response().Header().Set("Cache-Status", "bare; hit")
		return c.JSONBlob(http.StatusOK, value)
	})
	return e.Start(address)
}

// allocationsVariable makes this test binary count its own allocations.
const allocationsVariable = "COUNT_ALLOCATIONS"

type allocated struct{ Allocations, Bytes float64 }

// countAllocations serves hits to nobody, and prints what one of them allocates.
func countAllocations(ctx context.Context) error {
	c, err := loadConfig(os.Getenv)
	if err != nil {
		return err
	}
	flush, err := telemetry.Start(ctx, telemetry.Config{Instance: "priced"})
	if err != nil {
		return err
	}
	s, err := build(ctx, c)
	if err != nil {
		return err
	}
	const hits = 5000
	var before, after runtime.MemStats
	for warm := range 2 {
		runtime.ReadMemStats(&before)
		for range hits {
			request, err := hitRequest(ctx, "")
			if err != nil {
				return err
			}
			answer := httptest.NewRecorder()
			s.handler.ServeHTTP(answer, request)
			if err := checkHit(answer.Code, answer.Header(), answer.Body.Len()); err != nil && warm == 1 {
				return err
			}
		}
		runtime.ReadMemStats(&after)
	}
	if err := flush(ctx); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(allocated{
		float64(after.Mallocs-before.Mallocs) / hits, float64(after.TotalAlloc-before.TotalAlloc) / hits,
	})
}
