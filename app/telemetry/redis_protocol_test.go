package telemetry

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// written is a command as a client writes it.
func written(words ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(word), word)
	}
	return b.String()
}

func TestCommandsAreFoundAcrossWrites(t *testing.T) {
	t.Parallel()
	stream := written("hello", "3") + written("script", "load", "return 1") + written("SCRIPT", "LOAD", "return 2") +
		written("get", "a key\r\n*1\r\n$4\r\nping\r\n") + written("get", "") + written("ping") +
		written("set", "k", strings.Repeat("*1\r\n$9\r\nsubscribe\r\n", 100)) + written("command") + written("command") +
		written("client", "setname", "x") + written(strings.Repeat("long", 20)) + written("evalsha", "ab", "1", "k")
	want := []command{
		{"hello", ""}, {"script", "load"}, {"script", "load"}, {"get", ""}, {"get", ""}, {"ping", ""}, {"set", ""},
		{"command", ""}, {"command", ""}, {"client", "setname"}, {strings.Repeat("long", 16), ""}, {"evalsha", ""},
	}
	for size := 1; size <= len(stream); size = size*4/3 + 1 {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			t.Parallel()
			var r commandReader
			var found []command
			for b := []byte(stream); len(b) > 0; {
				n := min(size, len(b))
				r.follow(b[:n], func(c command) { found = append(found, c) })
				b = b[n:]
			}
			require.Equal(t, want, found)
		})
	}
}

// What no client writes must do no harm.
func FuzzCommandReader(f *testing.F) {
	f.Add([]byte(written("get", "k")), 3)
	f.Add([]byte("*\n$\n$-1\r\n\n*99999999999999999999\r\n$9223372036854775807\r\nx"), 1)
	f.Fuzz(func(_ *testing.T, stream []byte, size int) {
		var r commandReader
		for b := stream; len(b) > 0; {
			n := min(max(1, size), len(b))
			r.follow(b[:n], func(command) {})
			b = b[n:]
		}
	})
}
