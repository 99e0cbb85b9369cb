package postgresurl_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"nervous/app/postgresurl"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"postgres://clerk:s3cret@db.example:6432/shop?sslmode=require&pool_max_conns=4&application_name=till&" +
			"default_query_exec_mode=simple_protocol&channel_binding=require",
		"host=db.example port=6432 user=clerk password=s3cret dbname=shop sslmode=require pool_max_conns=4 " +
			"application_name=till default_query_exec_mode=simple_protocol channel_binding=require",
	} {
		for _, around := range []string{"", "\n", " \r\n"} {
			a, err := postgresurl.Parse(text + around)
			require.NoError(t, err)
			c := a.Pool.ConnConfig
			require.Equal(t, "db.example", c.Host)
			require.EqualValues(t, 6432, c.Port)
			require.Equal(t, "clerk", c.User)
			require.Equal(t, "s3cret", c.Password)
			require.Equal(t, "shop", c.Database)
			require.Equal(t, "require", c.ChannelBinding)
			require.Equal(t, pgx.QueryExecModeSimpleProtocol, c.DefaultQueryExecMode)
			require.EqualValues(t, 4, a.Pool.MaxConns)
			require.Equal(t, map[string]string{"application_name": "till"}, c.RuntimeParams)
			require.True(t, a.Has("pool_max_conns"))
			require.False(t, a.Has("pool_min_conns"))
		}
	}
}

// No error shows a part of a password, wherever an unencoded character has moved it.
func TestParse_ErrorsHoldNoSecret(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"postgres://clerk:hunter2%zz@db/shop", "postgres://clerk:12/hunter2@db/shop", "postgres://clerk:hunter2/x@db/shop",
		"postgres://clerk:12#hunter2@db/shop", "postgres://clerk:hunter2#@db/shop", "postgres://clerk:12?hunter2@db/shop",
		"postgres://clerk:hunter2?@db/shop", "postgres://clerk:hunter2 @db/shop", "postgres://clerk:hunter2@[::1/shop",
		"postgres://clerk:hunter2\n@db/shop", "postgres://clerk:hunter2@db:port/shop",
		"postgres://clerk:hunter2@db/shop?sslmode=hunter2", "postgres://clerk:hunter2@db/shop?pool_max_conns=many",
		"postgres://clerk@db/shop?password=hunter2&sslmode=maybe", "host=db password='hunter2", "password=hunter2 port=x",
		"clerk:hunter2@db/shop", "hunter2", "postgres://hunter2:x@db/shop?sslmode=maybe",
	} {
		_, err := postgresurl.Parse(text)
		require.Error(t, err, text)
		require.NotContains(t, err.Error(), "hunter2@", text)
		require.NotContains(t, err.Error(), "clerk", text)
		require.NotContains(t, err.Error(), "/shop", text)
		require.Contains(t, err.Error(), "accepted are ", text)
		if text != "postgres://clerk:hunter2@db/shop?sslmode=hunter2" { // where it is no password
			require.NotContains(t, err.Error(), "hunter2", text)
		}
	}
}

func TestParse_ErrorsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"postgres://clerk:secret@db/shop?sslmode=maybe":            "sslmode",
		"postgres://clerk:secret@db/shop?pool_max_conns=many":      "pool_max_conns",
		"postgres://clerk:secret@db/shop?channel_binding=maybe":    "channel_binding",
		"postgres://clerk:sec/ret@db/shop":                         "percent-encoded",
		"postgres://clerk:secret@db/shop?default_query_exec_mode=": "default_query_exec_mode",
	} {
		_, err := postgresurl.Parse(text)
		require.ErrorContains(t, err, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("postgres://clerk:", "@db/shop?sslmode=x")
	f.Add("host=db password='", "' port=x")
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "correct-horse-battery"
		if _, err := postgresurl.Parse(before + secret + after); err != nil && len(before) > 0 {
			// A parameter with another name is no password, and its value may be shown.
			if _, plain := postgresurl.Parse("postgres://u:p@h/d" + after); plain != nil {
				return
			}
			require.NotContains(t, err.Error(), secret)
		}
	})
}
