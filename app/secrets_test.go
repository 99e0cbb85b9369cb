package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
	"nervous/app/servicetest/otlp"
)

// marked begins every secret of these tests.
const marked = "mark3d"

// FuzzConfig_Secrets puts a secret into every variable that may hold one, with anything around it that breaks the
// variable. No fault that is listed shows it.
func FuzzConfig_Secrets(f *testing.F) {
	for _, around := range [][2]string{
		{"", ""}, {"%zz", ""}, {"", "%"}, {"/", ""}, {"", "/"}, {"#", "x"}, {"x", "?y="}, {" ", " "}, {"\n", "\n"},
		{"@", "@"},
		{":", ":"}, {"[", "]"}, {"\x00", "\x7f"}, {"'", "\\"}, {"1/", "@"},
	} {
		f.Add(around[0], around[1])
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		secret := before + marked + after
		for name, address := range map[string]string{
			"DATABASE_URL":        "postgres://clerk:" + secret + "@127.0.0.1:1/shop",
			"DATABASE_DIRECT_URL": "host=127.0.0.1 user=clerk password=" + secret + " dbname=shop port=x",
			"REDIS_URL":           "redis://clerk:" + secret + "@127.0.0.1:1/0",
		} {
			variables := map[string]string{
				"DATABASE_URL": "postgres://127.0.0.1/shop", "REDIS_URL": "redis://127.0.0.1:1", "TOKEN_SECRET": marked,
			}
			variables[name] = address
			for _, load := range []func(func(string) string) error{
				func(get func(string) string) error { _, err := loadConfig(get); return err },
				func(get func(string) string) error { _, err := loadJobConfig(get); return err },
				func(get func(string) string) error { _, err := loadDatabaseConfig(get); return err },
				func(get func(string) string) error { _, err := loadAuditConfig(get); return err },
				func(get func(string) string) error { _, err := loadTokenConfig(get); return err },
			} {
				if err := load(environment(variables)); err != nil {
					require.NotContains(t, err.Error(), marked)
				}
			}
		}
	})
}

// A whole life of a replica, with every kind of fault: nothing that leaves it holds a secret or a text of the stores.
func TestServe_NoSecretLeaves(t *testing.T) {
	t.Parallel()
	received := otlp.Receive(t)
	databaseURL := tenPosts(t)
	memory := servicetest.Redis(t)
	admin := redis.NewClient(memory.Options())
	defer admin.Close()
	require.NoError(t, admin.ConfigSet(t.Context(), "requirepass", marked+"-redis").Err())
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	proxy := servicetest.NewProxy(t, u.Host)
	u.Host = proxy.Addr()
	u.User = url.UserPassword("postgres", marked+"-postgres")
	r := startReplica(t, "one", map[string]string{
		"DATABASE_URL": u.String(), "REDIS_URL": strings.Replace(memory.URL(), "redis://", "redis://:"+marked+"-redis@", 1),
		"TOKEN_SECRET": marked + " token secret, long enough", "OTEL_EXPORTER_OTLP_ENDPOINT": received.URL(),
		"OTEL_EXPORTER_OTLP_HEADERS": "api-key=" + marked + "-otlp", "REDIS_TIMEOUT": "250ms", "LOG_LEVEL": "debug",
		"DATABASE_ACQUIRE_TIMEOUT": "500ms", "SHUTDOWN_TIMEOUT": "2s",
	})
	var answers strings.Builder
	all := func() {
		for _, c := range []struct{ method, path, body string }{
			{http.MethodGet, "/posts/trending", ""}, {http.MethodGet, "/posts/trending?strategy=preload", ""},
			{http.MethodGet, "/posts/trending?strategy=" + marked, ""}, {http.MethodGet, "/" + marked, ""},
			{http.MethodDelete, "/posts/trending", ""}, {http.MethodPost, "/reconcile", `{"` + marked + `":1}`},
			{http.MethodPost, "/payments/1/settled", ""}, {http.MethodGet, "/payments", ""}, {http.MethodGet, "/readyz", ""},
			{http.MethodGet, "/reconcile/" + strings.Repeat("0", 32), ""},
		} {
			request, err := http.NewRequestWithContext(t.Context(), c.method, r.url+c.path, strings.NewReader(c.body))
			require.NoError(t, err)
			request.Header.Set("Authorization", "Bearer "+marked+".caller.token")
			for range 2 {
				got := send(t, request)
				if c.path != "/posts/trending?strategy="+marked { // the caller's own word
					fmt.Fprintf(&answers, "%d %v %s\n", got.status, got.header, got.body)
				}
				request.Header.Del("Authorization")
				request.Body = io.NopCloser(strings.NewReader(c.body))
			}
		}
	}
	all()
	proxy.Cut()
	all()
	require.NoError(t, memory.Kill())
	all()
	_ = r.stop() // with its stores away; how it ends is not the point
	exported := fmt.Sprintf("%+v %+v %+v %+v",
		received.Spans(""), received.Points(""), received.Logs(), received.Resource())
	require.NotEmpty(t, received.Spans(""))
	require.NotEmpty(t, received.Points(""))
	require.NotEmpty(t, received.Logs())
	for what, text := range map[string]string{
		"answers": answers.String(), "the log": r.stderr.String(), "telemetry": exported,
	} {
		text = strings.ReplaceAll(text, "/"+marked, "") // the path that the caller chose
		if at := strings.Index(text, marked); at >= 0 {
			require.Fail(t, what+" show a secret", text[max(0, at-200):min(len(text), at+200)])
		}
	}
	for _, inside := range []string{"127.0.0.1", "SQLSTATE", "connection refused", "dial tcp", "relation", "NOAUTH"} {
		require.NotContains(t, answers.String(), inside)
	}
}
