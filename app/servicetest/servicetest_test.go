package servicetest_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

func TestEachTestHasADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	for range 3 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			pool := servicetest.Pool(t)
			// With a neighbour's row in the table this id would be taken.
			_, err := pool.Exec(t.Context(), "INSERT INTO users (id, name) VALUES (1, 'Ada')")
			require.NoError(t, err)
		})
	}
}

func TestDatabasesAreDroppedAfterTheirTest(t *testing.T) {
	t.Parallel()
	var url string
	t.Run("", func(t *testing.T) {
		url = servicetest.Postgres(t)
		conn, err := pgx.Connect(t.Context(), url) // and left open: the drop must not wait for it
		require.NoError(t, err)
		require.NoError(t, conn.Ping(t.Context()))
	})
	_, err := pgx.Connect(t.Context(), url)
	require.ErrorContains(t, err, "3D000", "SQLSTATE of a database that does not exist")
}

func TestRedisCanBeKilledAndComeBack(t *testing.T) {
	t.Parallel()
	server := servicetest.Redis(t)
	client := connect(t, server)
	require.NoError(t, client.Set(t.Context(), "key", "value", 0).Err())

	require.NoError(t, server.Kill())
	<-server.Gone()
	require.Error(t, client.Ping(t.Context()).Err())

	require.NoError(t, server.Restart(t.Context()))
	require.NoError(t, client.Ping(t.Context()).Err())
	require.ErrorIs(t, client.Get(t.Context(), "key").Err(), redis.Nil, "it had no disk")
}

func TestRedisCanBePaused(t *testing.T) {
	t.Parallel()
	server := servicetest.Redis(t)
	client := connect(t, server)
	require.NoError(t, client.Ping(t.Context()).Err())

	require.NoError(t, server.Pause())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, client.Ping(ctx).Err(), os.ErrDeadlineExceeded)

	require.NoError(t, server.Resume())
	require.NoError(t, client.Ping(t.Context()).Err())
}

func TestAServerThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	nonsense := servicetest.Options{Settings: map[string]string{"no-such-setting": "1"}}
	_, err := servicetest.StartRedis(t.Context(), nonsense)
	require.ErrorContains(t, err, "no-such-setting")
	_, err = servicetest.StartPostgres(t.Context(), nonsense)
	require.ErrorContains(t, err, "no_such_setting")

	taken := servicetest.Redis(t)
	_, err = servicetest.StartRedis(t.Context(), servicetest.Options{Port: taken.Port})
	require.ErrorContains(t, err, "Address already in use")
}

func TestDataInADirectoryOfTheCallersSurvivesAStop(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "nervous-kept-") // not t.TempDir: another user's servers cannot enter that of root
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })

	first, err := servicetest.StartPostgres(t.Context(), servicetest.Options{Dir: dir})
	require.NoError(t, err)
	_, err = first.CreateDatabase(t.Context(), "kept", "")
	require.NoError(t, err)
	require.NoError(t, first.Stop())
	require.NoError(t, first.Stop(), "stopping twice is allowed")

	second, err := servicetest.StartPostgres(t.Context(), servicetest.Options{Dir: dir})
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), second.URL("kept"))
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	require.NoError(t, second.Stop())
}

// TestNothingIsLeftWhenTheOwnerIsKilled runs this binary again as an owner of two servers and kills it as hard as
// can be.
func TestNothingIsLeftWhenTheOwnerIsKilled(t *testing.T) {
	t.Parallel()
	servicetest.Redis(t) // skips where there are no servers
	owner := exec.Command(os.Args[0], "-test.run=^TestOwnServersUntilKilled$")
	owner.Env = append(os.Environ(), "SERVICETEST_OWNER=1")
	owner.Stderr = os.Stderr
	stdout, err := owner.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())

	var dirs []string
	var pids []int
	for lines := bufio.NewScanner(stdout); len(pids) < 2 && lines.Scan(); {
		dir, pid, ok := strings.Cut(lines.Text(), " ")
		require.True(t, ok, lines.Text())
		number, err := strconv.Atoi(pid)
		require.NoError(t, err)
		dirs, pids = append(dirs, dir), append(pids, number)
	}
	require.Len(t, pids, 2)
	require.NoError(t, owner.Process.Kill())
	require.Error(t, owner.Wait())

	for i := range pids {
		require.Eventually(t, func() bool { return syscall.Kill(pids[i], 0) == syscall.ESRCH }, 10*time.Second,
			10*time.Millisecond, "server %d still runs", pids[i])
		require.Eventually(t, func() bool { _, err := os.Stat(dirs[i]); return os.IsNotExist(err) }, 10*time.Second,
			10*time.Millisecond, "%s is still there", dirs[i])
	}
}

// TestOwnServersUntilKilled is no test: it is the process that the test above kills.
func TestOwnServersUntilKilled(t *testing.T) {
	if os.Getenv("SERVICETEST_OWNER") == "" {
		return
	}
	postgres, err := servicetest.StartPostgres(t.Context(), servicetest.Options{})
	require.NoError(t, err)
	pid, err := os.ReadFile(postgres.Dir + "/data/postmaster.pid")
	require.NoError(t, err)
	number, _, _ := strings.Cut(string(pid), "\n")
	fmt.Println(postgres.Dir, number)

	server := servicetest.Redis(t)
	require.NoError(t, server.Pause()) // the hardest to end: it hears nothing but KILL
	fmt.Println(server.Dir, server.PID())
	select {}
}

// TestAMissingServerIsAFailureWhereCISaysSo runs another test of this binary where no redis-server can be found.
func TestAMissingServerIsAFailureWhereCISaysSo(t *testing.T) {
	t.Parallel()
	for ci, verdict := range map[string]string{"true": "--- FAIL", "": "--- SKIP"} {
		test := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRedisCanBePaused$", "-test.v")
		test.Env = append(os.Environ(), "PATH=/nowhere", "CI="+ci)
		output, err := test.CombinedOutput()
		require.Equal(t, ci == "true", err != nil, string(output))
		require.Contains(t, string(output), verdict)
		require.Contains(t, string(output), "apt-get install")
	}
}

func connect(t *testing.T, server *servicetest.RedisServer) *redis.Client {
	client := redis.NewClient(server.Options())
	t.Cleanup(func() { _ = client.Close() })
	return client
}
