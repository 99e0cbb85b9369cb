package deploy_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

// startApp starts a replica of the real service and returns when it is ready.
func startApp(t *testing.T, program, address string, environment ...string) *exec.Cmd {
	t.Helper()
	admin := freeAddress(t)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, "serve")
	cmd.Env = append(append(os.Environ(), environment...), "LISTEN_ADDR="+address, "ADMIN_ADDR="+admin,
		"REPLICA_ID="+address, "OTEL_SDK_DISABLED=true", "DEMO=true", "TRUSTED_PROXIES=127.0.0.0/8",
		"TOKEN_SECRET=a secret of the tests, long enough", "REDIS_TIMEOUT=5s")
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	require.NoError(t, cmd.Start())
	servicetest.Guard(t, cmd.Process.Pid)
	require.Eventually(t, func() bool {
		status, _ := statusOf(t, http.MethodGet, "http://"+admin+"/readyz")
		return status == http.StatusOK
	}, 30*time.Second, 20*time.Millisecond)
	return cmd
}

// Replicas are replaced one after another under load: no request fails, although Caddy sends none of them twice.
func TestRollout_NoRequestFails(t *testing.T) {
	if testing.Short() {
		t.Skip("sends requests for half a minute")
	}
	program := filepath.Join(t.TempDir(), "app")
	built, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../app").CombinedOutput()
	require.NoError(t, err, "%s", built)
	stores := []string{"DATABASE_URL=" + servicetest.Postgres(t), "REDIS_URL=" + servicetest.Redis(t).URL()}
	addresses := []string{freeAddress(t), freeAddress(t), freeAddress(t)}
	replicas := make([]*exec.Cmd, len(addresses))
	for i, address := range addresses {
		replicas[i] = startApp(t, program, address, stores...)
	}
	d := startCaddy(t, addresses...)

	load, end := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var sent atomic.Int64
	failed := make(chan string, 1000)
	for range 8 {
		clients.Go(func() {
			for load.Err() == nil {
				request, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
					"http://"+d.address+"/payments/settled", strings.NewReader(`{"payments":[1,2,3]}`))
				if err != nil {
					failed <- err.Error()
					return
				}
				request.Header.Set("X-RateLimit-Strategy", "off")
				got, err := http.DefaultClient.Do(request)
				switch {
				case err != nil:
					failed <- err.Error()
				case got.StatusCode != http.StatusAccepted:
					failed <- fmt.Sprintf("%d from %q", got.StatusCode, got.Header.Get("X-Served-By"))
				}
				if err == nil {
					_ = got.Body.Close()
				}
				sent.Add(1)
			}
		})
	}
	for range 2 {
		for i, address := range addresses {
			require.NoError(t, replicas[i].Process.Signal(syscall.SIGTERM))
			require.NoError(t, replicas[i].Wait())
			replicas[i] = startApp(t, program, address, stores...)
		}
	}
	end()
	clients.Wait()
	close(failed)
	for failure := range failed {
		t.Error(failure)
	}
	t.Logf("%d requests through 6 restarts", sent.Load())
	for _, replica := range replicas {
		require.NoError(t, replica.Process.Signal(syscall.SIGTERM))
		require.NoError(t, replica.Wait())
	}
}
