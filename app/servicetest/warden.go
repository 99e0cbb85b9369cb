package servicetest

import (
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
)

// wardenScript outlives us by a moment. It reads from a pipe whose other end only we hold: the number of each process
// that we start, and "dismissed" once we have tidied up ourselves. If the pipe closes before that word, we are gone (a
// panic, a time-out, kill -9: no deferred call runs then), and the script ends the server and removes its directory.
// This works wherever there is a shell; Linux's parent-death signal would not remove the directory.
const wardenScript = `
trap '' HUP INT TERM
signal=$1 dir=$2 server=
while read -r word; do
	[ "$word" = dismissed ] && exit
	server=$word
done
if [ -n "$server" ]; then
	kill -"$signal" "$server"
	tries=200 # Postgres gives its own children 5 s
	while [ $tries -gt 0 ] && kill -0 "$server"; do sleep 0.1; tries=$((tries - 1)); done
	kill -KILL "$server"
fi
[ -z "$dir" ] || rm -rf "$dir"
`

// warden ends one server and removes its directory should this process die first.
type warden struct {
	pipe io.WriteCloser
	cmd  *exec.Cmd
}

// posted are the wardens on duty. A test may hold no more of its server than the address; without this the garbage
// collector would find the pipe, close it, and the warden would think that we are gone.
var posted sync.Map

// post starts a warden. The signal (QUIT, KILL) is how the server ends at once and cleanly; dir is removed, and empty
// when there is nothing to remove.
func post(signal, dir string) (*warden, error) {
	cmd := exec.Command("sh", "-c", wardenScript, "warden", signal, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what kills our group must not kill the warden
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("post a warden: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("post a warden: %w", err)
	}
	w := &warden{pipe: pipe, cmd: cmd}
	posted.Store(w, nil)
	return w, nil
}

// watch tells the warden which process is the server now. A warden that cannot be told is dead, and then there is
// nobody to guard against our death: tests go on without.
func (w *warden) watch(pid int) { _, _ = fmt.Fprintln(w.pipe, pid) }

// dismiss ends the warden: the server is stopped and its directory gone.
func (w *warden) dismiss() {
	_, _ = fmt.Fprintln(w.pipe, "dismissed")
	_ = w.pipe.Close()
	_ = w.cmd.Wait()
	posted.Delete(w)
}
