package main

import "syscall"

// ownGroup makes a process the leader of a new process group, so that it can be ended together with what it starts, and
// lets the kernel kill it should this program die without a chance to do so itself (kill -9, out of memory). The kernel
// ties that to the thread which started the process; Go ends a thread only when a goroutine locked to it ends, and
// nothing here locks one.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
