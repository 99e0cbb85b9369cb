package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/api"
)

// numbers is a body with the ids from 1 to the last.
func numbers(last int) string {
	ids := make([]string, last)
	for i := range ids {
		ids[i] = fmt.Sprint(i + 1)
	}
	return `{"payments":[` + strings.Join(ids, ",") + `]}`
}

// A batch is one round-trip to Redis, and none to Postgres.
func TestSettledBatch(t *testing.T) {
	t.Parallel()
	s := newSurface(t, false)
	s.ask(t, http.MethodPost, "/payments/settled", numbers(1000), "") // Redis learns the script
	got := s.ask(t, http.MethodPost, "/payments/settled", numbers(1000), "")
	require.Equal(t, http.StatusAccepted, got.StatusCode, "%s", got.body)
	require.JSONEq(t, `{"accepted":1000,"path":"buffered"}`, string(got.body))
	redisTrips, postgresTrips := got.cost(t)
	require.Equal(t, "2", redisTrips, "the limit's, and one for all events")
	require.Equal(t, "0", postgresTrips)

	require.NoError(t, s.redis.Kill())
	s.ask(t, http.MethodPost, "/payments/settled", `{"payments":[1,2,3]}`, "") // Postgres prepares the statement
	got = s.ask(t, http.MethodPost, "/payments/settled", `{"payments":[1,2,3]}`, "")
	require.JSONEq(t, `{"accepted":3,"path":"direct"}`, string(got.body))
	_, postgresTrips = got.cost(t)
	require.Equal(t, "1", postgresTrips)
	var marked int
	require.NoError(t, s.pool.QueryRow(t.Context(),
		"SELECT count(*) FROM payments WHERE status = 'reconciled'").Scan(&marked))
	require.Equal(t, 2, marked, "one of them does not agree")

	s.lockPayments(t)
	got = s.ask(t, http.MethodPost, "/payments/settled", `{"payments":[4]}`, "")
	require.Equal(t, http.StatusServiceUnavailable, got.StatusCode, "%s", got.body)
	require.Equal(t, "1", got.Header.Get("Retry-After"))
}

func TestSettledBatch_Refusals(t *testing.T) {
	t.Parallel()
	s := newSurface(t, false)
	for body, field := range map[string]string{
		``:                           "payments",
		`{}`:                         "payments",
		`{"payments":[]}`:            "payments",
		`{"payments":null}`:          "payments",
		`null`:                       "body",
		numbers(1001):                "payments",
		`{"payments":[1,0]}`:         "payments[1]",
		`{"payments":[1,2,-3]}`:      "payments[2]",
		`{"payments":"1"}`:           "payments",
		`{"payments":[1.5]}`:         "payments",
		`{"payments":["1"]}`:         "payments",
		`{"payments":[1],"extra":1}`: "body",
		`{"payments":[1]} {}`:        "body",
		`[1]`:                        "body",
	} {
		name := body[:min(len(body), 40)]
		got := s.ask(t, http.MethodPost, "/payments/settled", body, "")
		require.Equal(t, http.StatusBadRequest, got.StatusCode, "%s: %s", name, got.body)
		var p problem
		got.decode(t, &p)
		require.Equal(t, field, p.Field, name)
	}
	keys, err := redis.NewClient(s.redis.Options()).Keys(t.Context(), "default:buffer:*").Result()
	require.NoError(t, err)
	require.Empty(t, keys)
}

// A payment provider's token has a limit of its own for events, and only for those.
func TestEventsHaveALimitOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := newSurface(t, false, limited(2, 0), func(d *api.Dependencies, _ redis.UniversalClient) {
		d.Events = policy("events", 5)
	})
	for range 5 {
		require.Equal(t, http.StatusAccepted,
			s.ask(t, http.MethodPost, "/payments/settled", `{"payments":[1]}`, "events").StatusCode)
	}
	s.ask(t, http.MethodPost, "/payments/1/settled", "", "events").denied(t, "events")
	require.Equal(t, http.StatusOK, s.ask(t, http.MethodGet, "/", "", "events").StatusCode)
	require.Equal(t, http.StatusAccepted,
		s.ask(t, http.MethodPost, "/payments/settled", `{"payments":[1]}`, "reconcile").StatusCode, "by the overall limit")
	s.ask(t, http.MethodPost, "/payments/settled", `{"payments":[1]}`, "reconcile").denied(t, "overall")
}
