package servicetest

import "testing"

// Guard kills the process with the given id should this one die before the test has ended it, so that not even one
// that was paused is left behind.
func Guard(t testing.TB, pid int) {
	t.Helper()
	guard, err := post("KILL", "")
	require(t, err)
	guard.watch(pid)
	t.Cleanup(guard.dismiss)
}
