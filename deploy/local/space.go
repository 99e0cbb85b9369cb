package main

import (
	"fmt"
	"syscall"
)

// spaceFor is how many megabytes a run writes at most, by scale.
var spaceFor = map[string]uint64{"small": 500, "full": 3000}

// freeMB returns how many megabytes this user may still write in the file system that holds dir.
func freeMB(dir string) (uint64, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return fs.Bavail * uint64(fs.Bsize) >> 20, nil
}

// enoughSpace refuses a start that would fill the disk half-way through loading the data.
func enoughSpace(dir string, wantMB uint64) error {
	haveMB, err := freeMB(dir)
	if err != nil {
		return err
	}
	if haveMB < wantMB {
		return fmt.Errorf("%s has %d MB free and this needs %d; free some, choose another place with TMPDIR, "+
			"or load less with -scale small", dir, haveMB, wantMB)
	}
	return nil
}
