package redisurl_test

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/redisurl"
)

func TestParse_OneServer(t *testing.T) {
	t.Parallel()
	a, err := redisurl.Parse("redis://user:secret@example.org:6380/3?pool_size=7")
	require.NoError(t, err)
	require.Equal(t, "example.org:6380", a.Server.Addr)
	require.Equal(t, []any{"user", "secret", 3, 7}, []any{a.Server.Username, a.Server.Password, a.Server.DB,
		a.Server.PoolSize})
	require.Nil(t, a.Server.TLSConfig)
	require.Equal(t, "redis://example.org:6380/3", a.String())

	a, err = redisurl.Parse("rediss://example.org")
	require.NoError(t, err)
	require.Equal(t, "example.org", a.Server.TLSConfig.ServerName)

	a, err = redisurl.Parse("unix://user:secret@/run/redis.sock?db=2")
	require.NoError(t, err)
	require.Equal(t, []any{"unix", "/run/redis.sock", 2}, []any{a.Server.Network, a.Server.Addr, a.Server.DB})
	require.NotContains(t, a.String(), "secret")
}

func TestParse_Sentinel(t *testing.T) {
	t.Parallel()
	a, err := redisurl.Parse("redis+sentinel://one/2?master_name=m&addr=two&addr=three:26380&username=u&password=p")
	require.NoError(t, err)
	require.Nil(t, a.Server)
	require.Nil(t, a.Cluster)
	require.Equal(t, []string{"one:26379", "two:26379", "three:26380"}, a.Sentinel.SentinelAddrs)
	require.Equal(t, []any{"m", 2, "u", "p", ""}, []any{a.Sentinel.MasterName, a.Sentinel.DB, a.Sentinel.Username,
		a.Sentinel.Password, a.Sentinel.SentinelPassword})
	require.Nil(t, a.Sentinel.TLSConfig)
	require.Equal(t, "redis+sentinel://one/2", a.String())

	a, err = redisurl.Parse("rediss+sentinel://u:p@one:1/0?master_name=m")
	require.NoError(t, err)
	require.NotNil(t, a.Sentinel.TLSConfig)
	require.Equal(t, "p", a.Sentinel.SentinelPassword)
}

func TestParse_Cluster(t *testing.T) {
	t.Parallel()
	a, err := redisurl.Parse("redis+cluster://u:p@one?addr=two&addr=[::1]:7000&addr=::1")
	require.NoError(t, err)
	require.Equal(t, []string{"one:6379", "two:6379", "[::1]:7000", "[::1]:6379"}, a.Cluster.Addrs)
	require.Equal(t, []any{"u", "p"}, []any{a.Cluster.Username, a.Cluster.Password})
	require.IsType(t, &redis.ClusterClient{}, a.Client())

	a, err = redisurl.Parse("rediss+cluster://one:7000/0")
	require.NoError(t, err)
	require.Equal(t, []any{"one", false}, []any{a.Cluster.TLSConfig.ServerName, a.Cluster.TLSConfig.InsecureSkipVerify})
	a, err = redisurl.Parse("rediss+cluster://one?skip_verify=true")
	require.NoError(t, err)
	require.True(t, a.Cluster.TLSConfig.InsecureSkipVerify)
}

func TestParse_RefusesWithTheReasonAndTheForms(t *testing.T) {
	t.Parallel()
	for text, reason := range map[string]string{
		"":                                     "it does not begin with a scheme and //",
		"one:6379":                             "it does not begin with a scheme and //",
		"127.0.0.1:6379":                       "it is no valid URL",
		"redis:one:6379":                       "it does not begin with a scheme and //",
		"http://example.org":                   `there is no scheme "http"`,
		"unix+cluster:///x":                    `there is no scheme "unix+cluster"`,
		"redis+magic://one":                    `there is no scheme "redis+magic"`,
		"redis://one/x":                        `invalid database number: "x"`,
		"redis://u:p@one?magic=1":              "unexpected option: magic",
		"redis+sentinel://one":                 "master_name",
		"redis+cluster://one/1":                "database 0 only",
		"redis+cluster://one?addr=":            "unable to parse addr param",
		"redis+cluster://o?skip_verify=true":   "skip_verify",
		"rediss+cluster://o?skip_verify=maybe": "skip_verify",
		"redis+cluster://o?read_only=1":        "reads from replicas",
		"redis+sentinel://o?master_name=m&route_by_latency=true": "reads from replicas",
		"redis+sentinel://o?master_name=m&replica_only=true":     "reads from replicas",
	} {
		_, err := redisurl.Parse(text)
		require.ErrorContains(t, err, reason, text)
		require.ErrorContains(t, err, redisurl.Forms, text)
	}
}

// Each has a fault, and "s3cret" or "t0ken" where a password may be.
func TestParse_NeverShowsAPassword(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"redis://u:s3cret@one/x", "redis://u:s3cret@one:port", "redis://u:s3cret%zz@one", "http://u:s3cret@one",
		"redis://u:t0ken/s3cret@one", "redis://u:t0ken#s3cret@one", "redis://u:6379?s3cret@one", "redis://u/s3cret@one",
		"redis://u:t0ken@s3cret@one/x", "redis://u:1/s3cret@one?x=1", "redis://:s3cret@one\x7f",
		"s3cret@one:1", "s3cret:t0ken@one",
		"redis+cluster://u:s3cret@one/x", "redis+cluster://u:1?s3cret@one", "redis+cluster://u:s3cret@one?addr=",
		"redis+sentinel://u:s3cret@one?master_name=m&password=t0ken&x=1",
		"redis+sentinel://one?master_name=m&password=s3&cret=t0ken&s3cret", "rediss+sentinel://u:s3cret@one",
		"redis+sentinel://one:1/t0ken?master_name=m&password=s3cret&username=x",
		"unix://u:s3cret@", "unix://u:s3cret@/x?db=y",
	} {
		_, err := redisurl.Parse(text)
		require.Error(t, err, text)
		require.NotContains(t, err.Error(), "s3", text)
		require.NotContains(t, err.Error(), "cret", text)
		require.NotContains(t, err.Error(), "t0ken", text)
	}
}
