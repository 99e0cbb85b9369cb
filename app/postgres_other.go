//go:build !linux

package main

import "syscall"

// unacknowledged does nothing: only Linux lets a socket bound how long a peer may not acknowledge.
func unacknowledged(_, _ string, _ syscall.RawConn) error { return nil }
