package buffer_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
)

// Options that cannot work are a fault of the program: New says which, and with which value.
func TestNew_RefusesOptionsThatCannotWork(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*buffer.Options[int64]){
		"Name is empty":                           func(o *buffer.Options[int64]) { o.Name = "" },
		"Apply is nil":                            func(o *buffer.Options[int64]) { o.Apply = nil },
		"FlushAge is -1s and must be at least":    func(o *buffer.Options[int64]) { o.FlushAge = -time.Second },
		"FlushAge is 999µs and must be at least":  func(o *buffer.Options[int64]) { o.FlushAge = 999 * time.Microsecond },
		"FlushTimeout is 1ns and must be":         func(o *buffer.Options[int64]) { o.FlushTimeout = 1 },
		"Lease is 5ns and must be at least 1ms":   func(o *buffer.Options[int64]) { o.Lease = 5 },
		"FlushSize is -1 and must be positive":    func(o *buffer.Options[int64]) { o.FlushSize = -1 },
		"Producers is -32 and must be positive":   func(o *buffer.Options[int64]) { o.Producers = -32 },
		"Lease is -1ns and must be at least 1ms,": func(o *buffer.Options[int64]) { o.Lease, o.Producers = -1, -1 },
	} {
		o := buffer.Options[int64]{Name: family, Apply: mark}
		change(&o)
		require.Contains(t, panicOf(func() { buffer.New(nil, nil, o) }), want)
	}
	for _, o := range []buffer.Options[int64]{
		{Name: family, Apply: mark},
		{Name: "a:b{}", Apply: mark, FlushAge: time.Millisecond, FlushTimeout: time.Millisecond, Lease: time.Millisecond,
			FlushSize: 1, Producers: 1},
	} {
		require.Empty(t, panicOf(func() { buffer.New(nil, nil, o) }))
	}
}

func panicOf(f func()) (said string) {
	defer func() {
		if p := recover(); p != nil {
			said = p.(string)
		}
	}()
	f()
	return ""
}
