package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/audit"
	"nervous/app/identity"
	"nervous/app/servicetest"
)

// limitOfTopologies is what a caller may do in a minute in these tests.
const limitOfTopologies = 40

// caller sends requests to the replicas of a service, each to the next one.
type caller struct {
	audited
	next atomic.Int64
}

// answered is what a request got, and what the cache says of it.
type answered struct {
	status int
	cache  string
	body   []byte
}

// as sends a request as a user. The limit is off where it says so.
func (c *caller) as(ctx context.Context, user, method, path, body string, unlimited bool) (a answered, err error) {
	token, err := identity.New(tokenSecret).Mint(identity.Caller{User: user, Scopes: []string{"reconcile"}}, time.Hour)
	if err != nil {
		return a, err
	}
	replica := c.replicas[int(c.next.Add(1))%len(c.replicas)]
	request, err := http.NewRequestWithContext(ctx, method, replica+path, strings.NewReader(body))
	if err != nil {
		return a, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if unlimited {
		request.Header.Set("X-RateLimit-Strategy", "off")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	a.status = response.StatusCode
	_, a.cache, _ = strings.Cut(response.Header.Get("Server-Timing"), `cache;desc="`)
	a.cache, _, _ = strings.Cut(a.cache, `"`)
	decoded := json.RawMessage{}
	if response.ContentLength != 0 {
		err = json.NewDecoder(response.Body).Decode(&decoded)
	}
	a.body = decoded
	return a, err
}

// atOnce sends as many requests at the same time, and counts their statuses and what the cache said.
func (c *caller) atOnce(
	ctx context.Context, n int, user, path string, unlimited bool,
) (statuses map[int]int, results map[string]int, faults error) {
	statuses, results = map[int]int{}, map[string]int{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			a, err := c.as(ctx, user, http.MethodGet, path, "", unlimited)
			mu.Lock()
			defer mu.Unlock()
			faults = errors.Join(faults, err)
			statuses[a.status]++
			results[a.cache]++
		})
	}
	group.Wait()
	return statuses, results, faults
}

// reconcileAll makes a buffered run and waits for its end.
func (c *caller) reconcileAll(ctx context.Context) error {
	var job struct{ ID, State, Error string }
	a, err := c.as(ctx, "clerk", http.MethodPost, "/reconcile", `{"strategy":"buffered"}`, true)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for err == nil {
		if err = json.Unmarshal(a.body, &job); err != nil || job.State == "done" {
			return err
		}
		if job.State != "running" {
			return fmt.Errorf("the run is %q: %s", job.State, a.body)
		}
		select {
		case <-again.C:
			a, err = c.as(ctx, "clerk", http.MethodGet, "/reconcile/"+job.ID, "", true)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return err
}

type truth struct {
	Pending, Reconciled    int64
	PendingThatAgree       int64 `json:"pending_that_agree"`
	ReconciledThatDisagree int64 `json:"reconciled_that_disagree"`
}

func (c *caller) truth(ctx context.Context) (is truth, err error) {
	a, err := c.as(ctx, "clerk", http.MethodGet, "/payments", "", true)
	if err != nil {
		return is, err
	}
	return is, json.Unmarshal(a.body, &is)
}

// On every topology the whole service does what it does on one server, and every call is traced.
func TestServe_Topologies(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a service on each kind of Redis")
	}
	t.Parallel()
	for _, topology := range []struct {
		name  string
		start func(*testing.T) (url string, variables map[string]string)
	}{
		{"TLS", func(t *testing.T) (string, map[string]string) {
			server := servicetest.RedisTLS(t)
			url, _, _ := strings.Cut(server.URL(), "?") // the certificate is verified
			return url, map[string]string{"SSL_CERT_FILE": server.CAFile()}
		}},
		{"Unix socket", func(t *testing.T) (string, map[string]string) { return servicetest.RedisSocket(t).URL(), nil }},
		{"Sentinel", func(t *testing.T) (string, map[string]string) { return servicetest.RedisSentinel(t).URL(), nil }},
		{"Cluster", func(t *testing.T) (string, map[string]string) {
			return servicetest.RedisClusterWithReplicas(t).URL(), nil
		}},
		{"Cluster with TLS", func(t *testing.T) (string, map[string]string) {
			return servicetest.RedisClusterTLS(t).URL(), nil
		}},
	} {
		t.Run(topology.name, func(t *testing.T) {
			url, variables := topology.start(t)
			all := map[string]string{"REDIS_URL": url, "RATELIMIT_LIMIT": fmt.Sprint(limitOfTopologies)}
			for variable, value := range variables {
				all[variable] = value
			}
			c := &caller{audited: startAudited(t, 2, all)}
			audited := url
			if topology.name == "TLS" { // this process has no such variable
				audited += "?skip_verify=true"
			}
			report, err := audit.Run(t.Context(), audit.Options{
				DatabaseURL: c.environment["DATABASE_URL"], RedisURL: audited, Replicas: c.admins,
			}, func(ctx context.Context) error { return c.everything(ctx, t) })
			require.NoError(t, err)
			if !report.Complete() {
				require.NoError(t, report.Print(t.Output()))
				require.Fail(t, "the audit is not complete")
			}
			calls, traced := audit.Calls(report.Redis)
			t.Logf("%d of %d calls to Redis are traced", traced, calls)
			require.Positive(t, calls)
		})
	}
}

// everything uses all three mechanisms, and says whether their claims hold.
func (c *caller) everything(ctx context.Context, t *testing.T) error {
	statuses, results, err := c.atOnce(ctx, 40, "reader", "/posts/trending", true)
	if err != nil {
		return err
	}
	require.Equal(t, map[int]int{http.StatusOK: 40}, statuses)
	require.Equal(t, 1, results["miss"], "one request fills, over two replicas: %v", results)
	require.Zero(t, results["bypass"], "%v", results)

	statuses, _, err = c.atOnce(ctx, 3*limitOfTopologies, "abuser", "/", false)
	if err != nil {
		return err
	}
	require.Equal(t, map[int]int{
		http.StatusOK: limitOfTopologies, http.StatusTooManyRequests: 2 * limitOfTopologies,
	}, statuses)

	for payment := range 20 {
		path := fmt.Sprintf("/payments/%d/settled", payment+1)
		a, err := c.as(ctx, "provider", http.MethodPost, path, "", true)
		if err != nil {
			return err
		}
		require.Equal(t, http.StatusAccepted, a.status, "%s", a.body)
		require.Contains(t, string(a.body), `"buffered"`)
	}
	if err := c.reconcileAll(ctx); err != nil {
		return err
	}
	is, err := c.truth(ctx)
	if err != nil {
		return err
	}
	require.Zero(t, is.PendingThatAgree)
	require.Zero(t, is.ReconciledThatDisagree)
	require.Positive(t, is.Reconciled)
	return nil
}

// While slots move from node to node, callers are redirected and notice nothing. A redirected command is two calls, and
// the audit accounts for both.
func TestServe_Resharding(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a service on a Cluster")
	}
	t.Parallel()
	cluster := servicetest.RedisCluster(t)
	c := &caller{audited: startAudited(t, 2, map[string]string{
		"REDIS_URL": cluster.URL(), "RATELIMIT_LIMIT": fmt.Sprint(limitOfTopologies), "RATELIMIT_WINDOW": "5m",
	})}
	for range c.replicas { // the list is filled, and each replica knows the slots
		_, err := c.as(t.Context(), "reader", http.MethodGet, "/posts/trending", "", true)
		require.NoError(t, err)
	}
	report, err := audit.Run(t.Context(), audit.Options{
		DatabaseURL: c.environment["DATABASE_URL"], RedisURL: cluster.URL(), Replicas: c.admins,
	}, func(ctx context.Context) error { return c.throughResharding(ctx, t, cluster) })
	require.NoError(t, err)
	untraced := map[string]int64{}
	for _, row := range report.Redis {
		if row.Untraced() != 0 {
			untraced[row.Operation] = row.Untraced()
		}
	}
	for _, operation := range []string{ // what resharding itself takes
		"CLUSTER SETSLOT", "CLUSTER GETKEYSINSLOT", "CLUSTER MYID", "CLUSTER KEYSLOT", "CLUSTER SLOTS", "MIGRATE", "SELECT",
		"RESTORE-ASKING", "HELLO", "CLIENT SETINFO", "CLIENT MAINT_NOTIFICATIONS", "CLIENT", "KEYS",
	} {
		delete(untraced, operation)
	}
	require.Empty(t, untraced)
	redirected := int64(0)
	for _, row := range report.Redis {
		if row.Operation == "ASKING" {
			redirected = row.Spans
		}
	}
	require.Positive(t, redirected, "some commands were redirected by ASK")
}

// throughResharding moves the slot of the cached list and that of a caller's limit, and uses both meanwhile.
func (c *caller) throughResharding(ctx context.Context, t *testing.T, cluster *servicetest.Cluster) error {
	const before = limitOfTopologies / 2
	statuses, _, err := c.atOnce(ctx, before, "abuser", "/", false)
	if err != nil {
		return err
	}
	require.Equal(t, map[int]int{http.StatusOK: before}, statuses)
	reads := func() error {
		statuses, results, err := c.atOnce(ctx, 20, "reader", "/posts/trending", true)
		require.Equal(t, map[int]int{http.StatusOK: 20}, statuses)
		require.Equal(t, map[string]int{"hit": 20}, results)
		return err
	}
	counts := func() error {
		statuses, _, err := c.atOnce(ctx, before/2, "abuser", "/", false)
		require.Equal(t, map[int]int{http.StatusOK: before / 2}, statuses)
		return err
	}
	for _, moved := range []struct {
		pattern string
		use     func() error
	}{{"*cache:*trending*", reads}, {"*ratelimit:*abuser*", counts}} {
		key, err := keyLike(ctx, cluster, moved.pattern)
		if err != nil {
			return err
		}
		from, err := cluster.Owner(ctx, key)
		if err != nil {
			return err
		}
		to := cluster.Nodes[0]
		if to == from {
			to = cluster.Nodes[1]
		}
		if err := cluster.Migrate(ctx, key, to, moved.use); err != nil {
			return err
		}
		if err := moved.use(); err != nil {
			return err
		}
	}
	statuses, _, err = c.atOnce(ctx, 10, "abuser", "/", false)
	require.Equal(t, map[int]int{http.StatusTooManyRequests: 10}, statuses, "the limit moved with its slot")
	return err
}

// keyLike is a key that matches the pattern, on whichever master.
func keyLike(ctx context.Context, cluster *servicetest.Cluster, pattern string) (string, error) {
	nodes, err := cluster.Masters(ctx)
	for i := 0; i < len(nodes) && err == nil; i++ {
		client := redis.NewClient(nodes[i].Options())
		var keys []string
		keys, err = client.Keys(ctx, pattern).Result()
		_ = client.Close()
		if len(keys) > 0 {
			return keys[0], nil
		}
	}
	return "", errors.Join(err, fmt.Errorf("no key is like %s", pattern))
}

// A failover under load: replication is asynchronous, so that some of what Redis knew is lost. What may happen then is
// bounded, and nothing is lost for good.
func TestServe_FailoverUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for failovers")
	}
	t.Parallel()
	t.Run("Sentinel", func(t *testing.T) {
		sentinel := servicetest.RedisSentinel(t)
		failOverUnderLoad(t, sentinel.URL(), sentinel.FailOver)
	})
	for name, pattern := range map[string]string{
		"Cluster, the master of the list": "*cache:*trending*", "Cluster, the master of the events": "*buffer:*live*",
	} {
		t.Run(name, func(t *testing.T) {
			cluster := servicetest.RedisClusterWithReplicas(t)
			failOverUnderLoad(t, cluster.URL(), func(ctx context.Context) error {
				master, err := ownerOfOneLike(ctx, cluster, pattern)
				if err != nil {
					return err
				}
				return cluster.FailOver(ctx, master)
			})
		})
	}
}

// ownerOfOneLike waits for a key that matches the pattern, for events are not in Redis for long.
func ownerOfOneLike(
	ctx context.Context, cluster *servicetest.Cluster, pattern string,
) (*servicetest.RedisServer, error) {
	for {
		key, err := keyLike(ctx, cluster, pattern)
		if err == nil {
			return cluster.Owner(ctx, key)
		}
		if ctx.Err() != nil {
			return nil, errors.Join(err, ctx.Err())
		}
	}
}

// pendingThoughSettled counts the payments that an event was accepted for, that agree, and that are not marked some
// seconds later, when all that is left in Redis has been flushed.
func (c *caller) pendingThoughSettled(ctx context.Context, payments []int64) (n int, err error) {
	conn, err := pgx.Connect(ctx, c.environment["DATABASE_URL"])
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	const pending = `
SELECT count(*) FROM payments p JOIN settlements s USING (reference)
WHERE p.id = ANY($1) AND p.status = 'pending' AND p.amount_minor = s.amount_minor AND p.currency = s.currency`
	again, late := time.NewTicker(100*time.Millisecond), time.After(3*time.Second)
	defer again.Stop()
	for {
		if err := conn.QueryRow(ctx, pending, payments).Scan(&n); err != nil || n == 0 {
			return n, err
		}
		select {
		case <-again.C:
		case <-late:
			return n, nil
		}
	}
}

func failOverUnderLoad(t *testing.T, url string, failOver func(context.Context) error) {
	t.Helper()
	c := &caller{audited: startAudited(t, 2, map[string]string{
		"REDIS_URL": url, "RATELIMIT_LIMIT": fmt.Sprint(limitOfTopologies), "RATELIMIT_WINDOW": "5m",
		"REDIS_TIMEOUT": "250ms", "RATELIMIT_BUDGET": "250ms", "RECONCILE_FLUSH_AGE": "100ms",
		"TRENDING_TTL": "10m",
	})}
	require.Eventually(t, func() bool { // else one of them takes the whole limit for its share
		known := 0.0
		for _, p := range c.received.Points("ratelimit.replicas") {
			known += p.Value
		}
		return known == 4
	}, 20*time.Second, 10*time.Millisecond, "each of two replicas knows both")
	_, err := audit.Run(t.Context(), audit.Options{
		DatabaseURL: c.environment["DATABASE_URL"], RedisURL: url, Replicas: c.admins,
	}, func(ctx context.Context) error { return c.throughFailover(ctx, t, failOver) })
	require.ErrorIs(t, err, audit.ErrCountsLost)
	t.Log(err)
}

// throughFailover reads, counts and settles until a failover is over, and some seconds more.
func (c *caller) throughFailover(ctx context.Context, t *testing.T, failOver func(context.Context) error) error {
	for range 2 * len(c.replicas) { // each replica has a value at hand
		if _, err := c.as(ctx, "reader", http.MethodGet, "/posts/trending", "", true); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	reads, admitted := map[string]int{}, map[int]int{}
	accepted := map[string][]int64{} // payments, by the path that their event went
	next := int64(0)
	on, end := context.WithCancel(ctx)
	defer end()
	var group sync.WaitGroup
	load := func(send func() error) {
		group.Go(func() {
			for on.Err() == nil {
				if err := send(); err != nil && on.Err() == nil {
					t.Errorf("a request was not answered: %v", err)
				}
			}
		})
	}
	for range 4 {
		load(func() error {
			a, err := c.as(ctx, "reader", http.MethodGet, "/posts/trending", "", true)
			mu.Lock()
			defer mu.Unlock()
			reads[fmt.Sprint(a.status, " ", a.cache)]++
			return err
		})
	}
	load(func() error {
		a, err := c.as(ctx, "abuser", http.MethodGet, "/", "", false)
		mu.Lock()
		defer mu.Unlock()
		admitted[a.status]++
		return err
	})
	load(func() error {
		mu.Lock()
		next++
		payment := next
		mu.Unlock()
		if payment > 2000 {
			<-on.Done()
			return nil
		}
		a, err := c.as(ctx, "provider", http.MethodPost, fmt.Sprintf("/payments/%d/settled", payment), "", true)
		mu.Lock()
		defer mu.Unlock()
		path := fmt.Sprint(a.status)
		switch a.status {
		case http.StatusServiceUnavailable:
			path = "refused" // the provider sends it again
		case http.StatusAccepted:
			_, path, _ = strings.Cut(string(a.body), `"path":"`)
			path, _, _ = strings.Cut(path, `"`)
		}
		accepted[path] = append(accepted[path], payment)
		return err
	})
	if err := failOver(ctx); err != nil {
		return err
	}
	select { // the replicas find the new master, and what is late arrives
	case <-time.After(3 * time.Second):
	case <-ctx.Done():
	}
	end()
	group.Wait()

	for range c.replicas { // in turn
		a, err := c.as(ctx, "reader", http.MethodGet, "/posts/trending", "", true)
		if err != nil {
			return err
		}
		require.Equal(t, "hit", a.cache, "each replica uses the new master")
	}
	vanished, err := c.pendingThoughSettled(ctx, slices.Concat(accepted["buffered"], accepted["direct"]))
	if err != nil {
		return err
	}
	if err := c.reconcileAll(ctx); err != nil {
		return err
	}
	after, err := c.truth(ctx)
	if err != nil {
		return err
	}
	fills := 0.0
	for _, p := range c.received.Points("cache.fills") {
		fills += p.Value
	}
	t.Logf("reads %v; the abuser's answers %v; events %d buffered, %d direct, %d refused, %d vanished; fills %v", reads,
		admitted, len(accepted["buffered"]), len(accepted["direct"]), len(accepted["refused"]), vanished, fills)
	for answer, n := range reads {
		require.True(t, strings.HasPrefix(answer, "200 "), "%d reads: %s", n, answer)
	}
	require.LessOrEqual(t, fills, 2.0, "fills, with one failover")
	require.LessOrEqual(t, admitted[http.StatusOK], 2*limitOfTopologies, "one limit too many")
	for path := range accepted {
		require.Contains(t, []string{"buffered", "direct", "refused"}, path)
	}
	require.Zero(t, after.PendingThatAgree, "what vanished is marked by the next run")
	require.Zero(t, after.ReconciledThatDisagree)
	return nil
}
