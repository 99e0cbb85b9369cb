package main

import (
	"errors"
	"os/exec"
	"syscall"
)

// removeAtTheEnd has a directory removed when this program ends, in whatever way: a shell waits on a pipe that only
// this program holds, so it notices even a kill -9. Calling remove is the ordinary way, and returns when it is done.
func removeAtTheEnd(dir string) (remove func() error, err error) {
	// The second try is for what a dying part still wrote during the first. No context: it outlives them all.
	const script = `read -r _; rm -rf "$1" || { sleep 1; rm -rf "$1"; }`
	waiting := exec.Command("sh", "-c", script, "sh", dir)    //nolint:noctx // as said
	waiting.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is not for it
	pipe, err := waiting.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := waiting.Start(); err != nil {
		return nil, err
	}
	return func() error { return errors.Join(pipe.Close(), waiting.Wait()) }, nil
}
