package servicetest

import (
	"flag"
	"fmt"
	"runtime"
)

// Parallel lets n tests of this binary run at the same time, unless the command line says otherwise: tests with servers
// wait for time to pass more than for a processor. It is for TestMain, before the tests run.
func Parallel(n int) {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == fmt.Sprint(runtime.GOMAXPROCS(0)) {
		_ = parallel.Value.Set(fmt.Sprint(n))
	}
}
