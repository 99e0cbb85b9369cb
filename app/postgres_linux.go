package main

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unacknowledgedFor is how long a peer may not acknowledge what was sent to it.
const unacknowledgedFor = 10 * time.Second

// unacknowledged bounds how long the kernel waits for a peer that has gone silently.
func unacknowledged(_, _ string, c syscall.RawConn) (err error) {
	controlled := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledgedFor.Milliseconds()))
	})
	if controlled != nil {
		return controlled
	}
	if err == unix.ENOPROTOOPT || err == unix.EOPNOTSUPP { // a Unix socket
		return nil
	}
	return err
}
