//go:build !linux

package main

import "syscall"

// ownGroup makes a process the leader of a new process group, so that it can be ended together with what it starts.
// Outside Linux nothing ends it should this program be killed with -9.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
