package api_test

import (
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/api"
	"nervous/app/ratelimit"
)

// limited changes a surface's limits. Runs are not limited by themselves where theirs is 0.
func limited(overall, runs int64) func(*api.Dependencies, redis.UniversalClient) {
	return func(d *api.Dependencies, _ redis.UniversalClient) {
		d.Overall, d.Runs = policy("overall", overall), policy("runs", runs)
	}
}

// behindAProxy lets a test be any address.
func behindAProxy(d *api.Dependencies, _ redis.UniversalClient) {
	d.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

func from(address string) http.Header { return http.Header{"X-Forwarded-For": {address}} }

func (s surface) as(t *testing.T, user string) http.Header {
	t.Helper()
	return http.Header{"Authorization": {s.bearer(t, user)}}
}

// by chooses how a request is counted.
func by(strategy string) http.Header { return http.Header{"X-RateLimit-Strategy": {strategy}} }

func (s surface) get(t *testing.T, path string, header http.Header) answer {
	t.Helper()
	return s.send(t, http.MethodGet, path, "", header)
}

// spent is what an answer says about a policy.
type spent struct{ limit, window, remaining, reset int64 }

// limits reads RateLimit-Policy and RateLimit as structured fields, and insists that they speak of the same policies.
func (a answer) limits(t *testing.T) map[string]spent {
	t.Helper()
	all := map[string]spent{}
	policies, err := httpsfv.UnmarshalList(a.Header.Values("RateLimit-Policy"))
	require.NoError(t, err, a.Header)
	left, err := httpsfv.UnmarshalList(a.Header.Values("RateLimit"))
	require.NoError(t, err, a.Header)
	require.Len(t, left, len(policies))
	for i := range policies {
		p, l := policies[i].(httpsfv.Item), left[i].(httpsfv.Item)
		require.Equal(t, p.Value, l.Value)
		require.Equal(t, []string{"q", "w"}, p.Params.Names())
		require.Equal(t, []string{"r", "t"}, l.Params.Names())
		number := func(params *httpsfv.Params, name string) int64 {
			value, _ := params.Get(name)
			require.IsType(t, int64(0), value)
			return value.(int64)
		}
		all[p.Value.(string)] = spent{
			number(p.Params, "q"), number(p.Params, "w"), number(l.Params, "r"), number(l.Params, "t"),
		}
	}
	return all
}

// remaining is what is left overall.
func (a answer) remaining(t *testing.T) int64 {
	t.Helper()
	limits := a.limits(t)
	require.Contains(t, limits, "overall")
	return limits["overall"].remaining
}

// denied insists on an answer that is as a denial by these policies has to be.
func (a answer) denied(t *testing.T, policies ...string) {
	t.Helper()
	require.Equal(t, http.StatusTooManyRequests, a.StatusCode, "%s", a.body)
	require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"))
	var p problem
	a.decode(t, &p)
	require.Equal(t, "https://iana.org/assignments/http-problem-types#quota-exceeded", p.Type)
	require.Equal(t, http.StatusTooManyRequests, p.Status)
	require.NotEmpty(t, p.Title)
	require.Equal(t, policies, p.ViolatedPolicies)
	after, err := strconv.ParseInt(a.Header.Get("Retry-After"), 10, 64)
	require.NoError(t, err)
	for _, policy := range policies {
		limit := a.limits(t)[policy]
		require.Zero(t, limit.remaining)
		require.Positive(t, limit.reset)
		require.GreaterOrEqual(t, after, limit.reset, "whoever comes then comes in vain")
		require.LessOrEqual(t, after, limit.window)
	}
}

// cost returns the round-trips that an answer took.
func (a answer) cost(t *testing.T) (redis, postgres string) {
	t.Helper()
	said := regexp.MustCompile(`redis;desc="(\d+) round-trips";.*db;desc="(\d+) round-trips"`).
		FindStringSubmatch(a.Header.Get("Server-Timing"))
	require.NotNil(t, said)
	return said[1], said[2]
}

func TestADeniedRequestReachesNothing(t *testing.T) {
	t.Parallel()
	s := newSurface(t, true, limited(2, 0))
	for left := int64(1); left >= 0; left-- {
		got := s.ask(t, http.MethodGet, "/payments", "")
		require.Equal(t, http.StatusOK, got.StatusCode, "%s", got.body)
		require.Equal(t, left, got.remaining(t))
		redis, postgres := got.cost(t)
		require.Equal(t, "1", redis)
		require.NotEqual(t, "0", postgres)
	}
	for _, asked := range []struct{ method, path, body, redis string }{
		{http.MethodGet, "/payments", "", "1"},
		{http.MethodGet, "/payments", "", "0"}, // it is remembered
		{http.MethodPost, "/reconcile", `{"strategy":"magic"}`, "0"},
		{http.MethodPost, "/payments/1/settled", "", "0"},
		{http.MethodGet, "/posts/trending?strategy=n_plus_one", "", "0"},
		{http.MethodDelete, "/posts/trending", "", "0"},
	} {
		got := s.ask(t, asked.method, asked.path, asked.body)
		got.denied(t, "overall")
		redis, postgres := got.cost(t)
		require.Equal(t, asked.redis, redis, asked)
		require.Equal(t, "0", postgres, asked)
		require.Empty(t, got.Header.Get("Cache-Status"))
	}
	var runs int
	require.NoError(t, s.pool.QueryRow(t.Context(), "SELECT count(*) FROM reconcile_jobs").Scan(&runs))
	require.Zero(t, runs)
}

func TestProbesAreNotLimited(t *testing.T) {
	t.Parallel()
	s := newSurface(t, false, limited(1, 0))
	require.Equal(t, http.StatusOK, s.get(t, "/", nil).StatusCode)
	for range 3 {
		s.get(t, "/", nil).denied(t, "overall")
		for _, probe := range []string{"/healthz", "/readyz"} {
			got := s.get(t, probe, http.Header{"Authorization": {"Bearer of good news"}})
			require.Equal(t, http.StatusOK, got.StatusCode)
			require.Empty(t, got.limits(t))
			redis, _ := got.cost(t)
			require.Equal(t, "0", redis)
		}
	}
	s.send(t, http.MethodPost, "/healthz", "", nil).denied(t, "overall")
	s.get(t, "//healthz", nil).denied(t, "overall")
	s.get(t, "/healthz/", nil).denied(t, "overall")
}

func TestWhatIsNoRouteIsLimitedToo(t *testing.T) {
	t.Parallel()
	s := newSurface(t, false, limited(4, 0))
	for i, c := range []struct {
		method, path string
		status       int
	}{
		{http.MethodGet, "/nowhere", http.StatusNotFound},
		{http.MethodPost, "/posts/trending", http.StatusMethodNotAllowed},
		{http.MethodOptions, "/posts/trending", http.StatusNoContent},
		{http.MethodDelete, "/ratelimit", http.StatusNotFound}, // which is for the demo
	} {
		got := s.send(t, c.method, c.path, "", nil)
		require.Equal(t, c.status, got.StatusCode)
		require.Equal(t, int64(3-i), got.remaining(t))
	}
	s.get(t, "/nowhere", nil).denied(t, "overall")
	s.send(t, http.MethodPost, "/posts/trending", "", nil).denied(t, "overall")
}

// Trying tokens is limited by the address that they come from, and takes nothing from whoever they might be for.
func TestRefusedTokensCountForTheAddress(t *testing.T) {
	t.Parallel()
	s := newSurface(t, false, limited(6, 0), behindAProxy)
	good := s.bearer(t, "42", "reconcile")
	sign := func(method jwt.SigningMethod, key any, ends time.Time) string {
		token, err := jwt.NewWithClaims(method, jwt.MapClaims{"sub": "42", "exp": ends.Unix()}).SignedString(key)
		require.NoError(t, err)
		return "Bearer " + token
	}
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	for i, c := range []struct{ authorization, detail string }{
		{"Bearer of good news", "it is not a JWT"},
		{good[:len(good)-3], "not signed"},
		{sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, soon), "not signed"},
		{sign(jwt.SigningMethodHS256, []byte("a secret of the tests, long enough"), past), "expired"},
		{sign(jwt.SigningMethodHS256, []byte("another secret, which is as long.."), soon), "not signed"},
	} {
		header := from("203.0.113.7")
		header.Set("Authorization", c.authorization)
		got := s.get(t, "/", header)
		require.Equal(t, http.StatusUnauthorized, got.StatusCode, c)
		require.Equal(t, `Bearer error="invalid_token"`, got.Header.Get("WWW-Authenticate"))
		require.Contains(t, string(got.body), c.detail)
		require.Equal(t, int64(5-i), got.remaining(t), "one more that this address has spent")
	}
	require.Zero(t, s.get(t, "/", from("203.0.113.7")).remaining(t), "no token counts for the address as well")

	for _, authorization := range []string{"", "Bearer of good news", "Basic NDI6cGFzc3dvcmQ="} {
		header := from("203.0.113.7")
		header.Set("Authorization", authorization)
		s.get(t, "/", header).denied(t, "overall")
	}
	header := from("203.0.113.7")
	header.Set("Authorization", good)
	require.Equal(t, int64(5), s.get(t, "/", header).remaining(t), "who shows his token is not his neighbours")
}

func TestEveryCallerHasLimitsOfHisOwn(t *testing.T) {
	t.Parallel()
	s := newSurface(t, false, limited(1, 0), behindAProxy)
	for _, who := range []http.Header{
		s.as(t, "42"), s.as(t, "43"), s.as(t, "address:203.0.113.7"), s.as(t, "{42}"), s.as(t, "user:42"),
		from("203.0.113.7"), from("203.0.113.8"), from("2001:db8::1"), from("2001:db8:0:1::1"),
	} {
		require.Zero(t, s.get(t, "/", who).remaining(t))
		s.get(t, "/", who).denied(t, "overall")
	}
	for _, same := range []string{
		"::ffff:203.0.113.7", "6.6.6.6, 203.0.113.7", "2001:db8::2", "2001:db8:0:0:ffff::", "[2001:db8::3]",
	} {
		s.get(t, "/", from(same)).denied(t, "overall")
	}
	elsewhere := s.as(t, "42")
	elsewhere.Set("X-Forwarded-For", "198.51.100.9")
	s.get(t, "/", elsewhere).denied(t, "overall")
}

func TestForwardingHeadersOfAStrangerAreNotBelieved(t *testing.T) {
	t.Parallel()
	s := newSurface(t, false, limited(1, 0))
	require.Equal(t, http.StatusOK, s.get(t, "/", nil).StatusCode)
	for _, header := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded", "True-Client-Ip", "Cf-Connecting-Ip"} {
		s.get(t, "/", http.Header{header: {"203.0.113.7"}}).denied(t, "overall")
	}
}

// Two policies are one check, which spends from both or from none.
func TestRunsHaveALimitOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := newSurface(t, false, limited(5, 2))
	start := func() answer { return s.ask(t, http.MethodPost, "/reconcile", "", "reset") }
	for left := int64(1); left >= 0; left-- {
		got := start()
		require.Equal(t, http.StatusForbidden, got.StatusCode, "the scope is asked for behind the limit")
		limits := got.limits(t)
		require.Equal(t, spent{5, 3600, 3 + left, 3600}, limits["overall"])
		require.Equal(t, spent{2, 3600, left, 3600}, limits["runs"])
		redis, postgres := got.cost(t)
		require.Equal(t, "1", redis)
		require.Equal(t, "0", postgres)
	}
	for _, redis := range []string{"1", "0"} {
		got := start()
		got.denied(t, "runs")
		require.Equal(t, int64(3), got.remaining(t))
		cost, _ := got.cost(t)
		require.Equal(t, redis, cost)
	}
	for left := int64(2); left >= 0; left-- {
		other := s.ask(t, http.MethodGet, "/", "")
		require.Equal(t, map[string]spent{"overall": {5, 3600, left, other.limits(t)["overall"].reset}}, other.limits(t))
	}
	start().denied(t, "runs") // as remembered: by now there would be two reasons
}

func TestRetryAfterIsWhenTheNextIsLetThrough(t *testing.T) {
	t.Parallel()
	s := newSurface(t, false, func(d *api.Dependencies, _ redis.UniversalClient) {
		d.Overall = policy("overall", 1)
		d.Overall.Window = 2 * time.Second
	})
	denied := s.get(t, "/", nil)
	for denied.StatusCode == http.StatusOK {
		denied = s.get(t, "/", nil)
	}
	denied.denied(t, "overall")
	after, err := time.ParseDuration(denied.Header.Get("Retry-After") + "s")
	require.NoError(t, err)
	<-time.After(after)
	require.Equal(t, http.StatusOK, s.get(t, "/", nil).StatusCode, "as was said")
}

func TestTheStrategyIsTheDemosToChoose(t *testing.T) {
	t.Parallel()
	strict := newSurface(t, false, limited(7, 0))
	for i, c := range []struct {
		strategy, title string
		status          int
	}{
		{"", "", http.StatusOK},
		{"exact", "", http.StatusOK}, // which is configured
		{"fixed_window", "Strategy is not yours to choose", http.StatusForbidden},
		{"off", "Strategy is not yours to choose", http.StatusForbidden},
		{"magic", "Unknown strategy", http.StatusBadRequest},
		{"Exact", "Unknown strategy", http.StatusBadRequest},
		{"exact, off", "Unknown strategy", http.StatusBadRequest},
	} {
		got := strict.get(t, "/", by(c.strategy))
		require.Equal(t, c.status, got.StatusCode, c.strategy)
		require.Equal(t, int64(6-i), got.remaining(t), "it is counted, as configured")
		if c.status != http.StatusOK {
			var p problem
			got.decode(t, &p)
			require.Equal(t, "x-ratelimit-strategy", p.Field)
			require.Equal(t, c.title, p.Title)
			require.NotContains(t, p.Detail, "magic")
		}
	}
	for _, strategy := range []string{"fixed_window", "off", "magic"} {
		strict.get(t, "/", by(strategy)).denied(t, "overall")
	}

	demo := newSurface(t, true, limited(1, 1))
	for _, strategy := range []string{"exact", "fixed_window"} {
		require.Zero(t, demo.get(t, "/", by(strategy)).remaining(t))
		demo.get(t, "/", by(strategy)).denied(t, "overall")
	}
	free := demo.get(t, "/", by("off"))
	require.Equal(t, http.StatusOK, free.StatusCode)
	require.Empty(t, free.limits(t))
	redis, _ := free.cost(t)
	require.Equal(t, "0", redis)
	demo.get(t, "/", by("magic")).denied(t, "overall")
	run := func() answer {
		header := demo.as(t, "42")
		header.Set("X-RateLimit-Strategy", "fixed_window")
		return demo.send(t, http.MethodPost, "/reconcile", "", header)
	}
	require.Len(t, run().limits(t), 2)
	run().denied(t, "overall", "runs")
	require.Zero(t, demo.get(t, "/", demo.as(t, "42")).remaining(t), "each strategy counts by itself")
}

func TestAResetIsForTheDemoAndForWhoAsks(t *testing.T) {
	t.Parallel()
	s := newSurface(t, true, limited(1, 1))
	ask := func(user, strategy string) answer {
		header := s.as(t, user)
		header.Set("X-RateLimit-Strategy", strategy)
		return s.send(t, http.MethodPost, "/reconcile", "", header)
	}
	spend := func(user string) {
		for _, strategy := range []string{"exact", "fixed_window"} {
			require.Equal(t, http.StatusForbidden, ask(user, strategy).StatusCode)
			ask(user, strategy).denied(t, "overall", "runs")
		}
	}
	spend("42")
	spend("43")
	reset := s.send(t, http.MethodDelete, "/ratelimit", "", s.as(t, "42"))
	require.Equal(t, http.StatusNoContent, reset.StatusCode)
	require.Empty(t, reset.limits(t))
	spend("42")
	ask("43", "exact").denied(t, "overall", "runs")

	refused := s.send(t, http.MethodDelete, "/ratelimit", "", http.Header{"Authorization": {"Bearer of good news"}})
	require.Equal(t, http.StatusUnauthorized, refused.StatusCode)
	require.NoError(t, s.redis.Kill())
	failed := s.send(t, http.MethodDelete, "/ratelimit", "", s.as(t, "43"))
	require.Equal(t, http.StatusServiceUnavailable, failed.StatusCode)
	require.Equal(t, "1", failed.Header.Get("Retry-After"))
	require.NotContains(t, string(failed.body), s.redis.Addr())
}

// A Redis that hangs is not waited for, and is asked again once it answers.
func TestWhileRedisHangsItsLimitIsKeptHere(t *testing.T) {
	t.Parallel()
	s := newSurface(t, false, func(d *api.Dependencies, rdb redis.UniversalClient) {
		d.Overall = policy("overall", 1000)
		d.Limiter = ratelimit.New(rdb, ratelimit.Options{Replica: "test-1", Budget: 200 * time.Millisecond})
	})
	for range 10 {
		require.Equal(t, http.StatusOK, s.get(t, "/", nil).StatusCode)
	}
	counted := s.get(t, "/", nil).remaining(t)
	require.LessOrEqual(t, counted, int64(989))

	require.NoError(t, s.redis.Pause())
	for n := range int64(10) {
		began := time.Now()
		got := s.get(t, "/", nil)
		require.Equal(t, http.StatusOK, got.StatusCode)
		require.Equal(t, counted-1-n, got.remaining(t), "it is counted here, from what was admitted here")
		require.Contains(t, got.Header.Get("Server-Timing"), `limit;desc="fallback"`)
		require.Less(t, time.Since(began), 3*time.Second, "Redis would have taken until it goes on")
	}
	require.NoError(t, s.redis.Resume())
	require.Eventually(t, func() bool {
		return s.get(t, "/", nil).remaining(t) > counted-10
	}, 20*time.Second, 50*time.Millisecond, "Redis counts again, and was not told of those")
}

func TestWithoutRedisEachPolicyFallsBackAsConfigured(t *testing.T) {
	t.Parallel()
	falling := func(overall, runs ratelimit.Fallback) surface {
		s := newSurface(t, false, limited(3, 2), func(d *api.Dependencies, _ redis.UniversalClient) {
			d.Overall.Fallback, d.Runs.Fallback = overall, runs
		})
		require.NoError(t, s.redis.Kill())
		return s
	}
	local := falling(ratelimit.Local, ratelimit.Local)
	for left := int64(2); left >= 0; left-- {
		require.Equal(t, left, local.get(t, "/", nil).remaining(t))
	}
	local.get(t, "/", nil).denied(t, "overall")

	open := falling(ratelimit.Open, ratelimit.Open)
	for range 10 {
		got := open.get(t, "/", nil)
		require.Equal(t, http.StatusOK, got.StatusCode)
		require.Len(t, got.limits(t), 1)
	}

	closed := falling(ratelimit.Local, ratelimit.Closed)
	for range 3 {
		got := closed.ask(t, http.MethodPost, "/reconcile", "")
		require.Equal(t, http.StatusServiceUnavailable, got.StatusCode, "%s", got.body)
		require.Equal(t, "1", got.Header.Get("Retry-After"))
		var p problem
		got.decode(t, &p)
		require.Equal(t, "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity", p.Type)
		require.Equal(t, []string{"runs"}, p.ViolatedPolicies)
	}
	free := closed.ask(t, http.MethodGet, "/", "")
	require.Equal(t, http.StatusOK, free.StatusCode, "what is not closed goes on")
	require.Equal(t, int64(2), free.remaining(t), "what was refused has spent nothing")
	require.Equal(t, http.StatusOK, closed.get(t, "/healthz", nil).StatusCode)

	require.NoError(t, closed.redis.Restart(t.Context()))
	require.Eventually(t, func() bool {
		return closed.ask(t, http.MethodPost, "/reconcile", "", "reset").StatusCode == http.StatusForbidden
	}, 20*time.Second, 50*time.Millisecond, "it recovers without a restart")
}
