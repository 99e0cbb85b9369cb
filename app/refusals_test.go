package main

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

// A Redis that answers, and refuses: the service works without what is refused, and with it again afterwards.
func TestServe_RedisThatRefuses(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for circuit breakers")
	}
	t.Parallel()
	server, err := servicetest.StartRedis(t.Context(), servicetest.Options{Settings: map[string]string{"save": ""}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	admin := redis.NewClient(server.Options())
	t.Cleanup(func() { _ = admin.Close() })
	command := func(words ...any) func(*testing.T) {
		return func(t *testing.T) { require.NoError(t, admin.Do(t.Context(), words...).Err()) }
	}
	f := startFleet(t, map[string]string{"REDIS_URL": server.URL()}, "one")
	for _, fault := range []struct {
		name         string
		inject, heal func(*testing.T)
		refused      string // what a write is answered with
	}{
		{"NOSCRIPT", command("SCRIPT", "FLUSH"), func(*testing.T) {}, ""},
		{"OOM", command("CONFIG", "SET", "maxmemory", "1"), command("CONFIG", "SET", "maxmemory", "0"), "OOM"},
		{
			"READONLY", command("REPLICAOF", "127.0.0.1", "1"), command("REPLICAOF", "NO", "ONE"), "READONLY",
		},
		{
			"MISCONF", func(t *testing.T) {
				require.NoError(t, os.Chmod(server.Dir, 0o500))
				require.NoError(t, admin.ConfigSet(t.Context(), "save", "3600 1").Err())
				require.NoError(t, admin.BgSave(t.Context()).Err())
				require.Eventually(t, func() bool {
					return redis.HasErrorPrefix(admin.Set(t.Context(), "probe", 1, time.Second).Err(), "MISCONF")
				}, 20*time.Second, 10*time.Millisecond)
			}, func(t *testing.T) {
				require.NoError(t, os.Chmod(server.Dir, 0o700))
				require.NoError(t, admin.ConfigSet(t.Context(), "save", "").Err())
			}, "MISCONF",
		},
		{
			"max clients", func(t *testing.T) {
				require.NoError(t, admin.ConfigSet(t.Context(), "maxclients", "1").Err())
				for _, kind := range []string{"normal", "pubsub"} {
					require.NoError(t, admin.Do(t.Context(), "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes").Err())
				}
			}, command("CONFIG", "SET", "maxclients", "10000"), "",
		},
		{
			"a subscriber that is too slow", command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1 1 1"),
			command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 33554432 8388608 60"), "",
		},
	} {
		t.Run(fault.name, func(t *testing.T) {
			fault.inject(t)
			if fault.refused != "" {
				require.True(t, redis.HasErrorPrefix(admin.Set(t.Context(), "probe", 1, time.Second).Err(), fault.refused))
			}
			for range 20 {
				f.got(http.StatusOK, "one", http.MethodGet, "/posts/trending", "")
				f.got(http.StatusOK, "one", http.MethodGet, "/", "")
				f.got(http.StatusAccepted, "one", http.MethodPost, "/payments/1/settled", "")
			}
			if fault.refused == "READONLY" || fault.refused == "MISCONF" {
				refused := f.got(http.StatusServiceUnavailable, "one", http.MethodDelete, "/posts/trending", "")
				require.NotEmpty(t, refused.header.Get("Retry-After"))
				require.NotContains(t, string(refused.reply.body), fault.refused)
			}
			fault.heal(t)
			require.Eventually(t, func() bool {
				read := f.got(http.StatusOK, "one", http.MethodGet, "/posts/trending", "")
				event := f.got(http.StatusAccepted, "one", http.MethodPost, "/payments/2/settled", "")
				limited := f.got(http.StatusOK, "one", http.MethodGet, "/", "")
				return read.result == "hit" && strings.Contains(string(event.reply.body), `"buffered"`) &&
					strings.Contains(limited.header.Get("Server-Timing"), `limit;desc="redis"`)
			}, 30*time.Second, 50*time.Millisecond, "it uses Redis again")
		})
	}
}
