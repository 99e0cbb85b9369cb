package servicetest

import (
	"runtime"
	"testing"
	"weak"
)

func TestAServerThatNobodyHoldsLives(t *testing.T) {
	t.Parallel()
	guard := func() weak.Pointer[warden] {
		server, err := StartRedis(t.Context(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return weak.Make(server.warden)
	}()
	runtime.GC()
	runtime.GC() // what has a finalizer is only freed by the second
	if guard.Value() == nil {
		t.Fatal("its pipe will be closed, and it will end the server")
	}
}
