package api_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/dunglas/httpsfv"
	"github.com/stretchr/testify/require"
)

// FuzzHeaders says anything about who asks, from where and how to count: it must end in one of few answers, none of
// which is our fault, and every answer that is not free of the limits must say what is left of them.
func FuzzHeaders(f *testing.F) {
	strict := newSurface(f, false, behindAProxy)
	demo := newSurface(f, true, behindAProxy)
	good := strict.bearer(f, "42", "reconcile")
	for _, seed := range []struct{ authorization, forwarded, strategy string }{
		{"", "", ""},
		{good, "203.0.113.7", "exact"},
		{good, "2001:db8::7", "off"},
		{"bearer  " + good[len("Bearer "):], "[2001:db8::7]:443, 127.0.0.1", "fixed_window"},
		{good + ".", "fe80::1%eth0", "Exact"},
		{strict.bearer(f, strings.Repeat("4", 2000)), strings.Repeat("127.0.0.1,", 1000), strings.Repeat("off", 1000)},
		{strict.bearer(f, "}{\x00\r\n*: "), "::ffff:203.0.113.7", "exact, off"},
		{"Bearer eyJhbGciOiJub25lIn0.e30.", "unknown, _hidden, 203.0.113.7:99999", "\x00"},
		{"Basic NDI6cGFzc3dvcmQ=", "\xff,\r\n", "\xff\"\\"},
		{"Bearer ..", "0x7f.1, 127.1, 1e3, -1", "fixed_window\r\n"},
	} {
		f.Add(seed.authorization, seed.forwarded, seed.strategy)
	}
	f.Fuzz(func(t *testing.T, authorization, forwarded, strategy string) {
		for _, s := range []surface{strict, demo} {
			request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			request.RemoteAddr = "127.0.0.1:1234"
			// Straight into the map: a server would not let all of it come so far.
			request.Header = http.Header{
				"Authorization": {authorization}, "X-Forwarded-For": {forwarded}, "X-Ratelimit-Strategy": {strategy},
			}
			got := httptest.NewRecorder()
			s.handler.ServeHTTP(got, request)

			require.Contains(t, []int{
				http.StatusOK, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests,
			}, got.Code, "%s", got.Body)
			if got.Code != http.StatusOK {
				require.Equal(t, "application/problem+json", got.Header().Get("Content-Type"))
				var p problem
				require.NoError(t, json.Unmarshal(got.Body.Bytes(), &p))
				require.Equal(t, got.Code, p.Status)
			}
			left, err := httpsfv.UnmarshalList(got.Header().Values("RateLimit"))
			require.NoError(t, err)
			require.True(t, len(left) > 0 || s.demo && strategy == "off")
			require.Equal(t, got.Code == http.StatusTooManyRequests, got.Header().Get("Retry-After") != "")
			for name, values := range got.Header() {
				require.False(t, slices.ContainsFunc(values, func(v string) bool { return strings.ContainsAny(v, "\r\n") }), name)
			}
		}
	})
}
