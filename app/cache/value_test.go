package cache

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
)

func TestAValueSurvivesItsEncoding(t *testing.T) {
	t.Parallel()
	now := time.UnixMicro(1_795_000_000_123_456)
	written := &entry[string]{
		value:      "ten posts",
		createdAt:  now,
		freshUntil: now.Add(10 * time.Minute),
		fillTime:   1234 * time.Millisecond,
		token:      newToken(),
		producer: trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4, 5}, TraceFlags: trace.FlagsSampled, Remote: true,
		}),
	}
	b, err := written.encode(JSON[string]{})
	require.NoError(t, err)
	read, err := decode(b, JSON[string]{})
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(written, read, cmp.AllowUnexported(entry[string]{})))
}

func TestWhatIsNotAValueOfThisVersionIsRefused(t *testing.T) {
	t.Parallel()
	good, err := (&entry[string]{value: "x"}).encode(JSON[string]{})
	require.NoError(t, err)
	changed := func(at int, to byte) []byte {
		b := append([]byte{}, good...)
		b[at] = to
		return b
	}
	for name, b := range map[string][]byte{
		"nothing":         {},
		"a short header":  good[:headerSize-1],
		"another version": changed(0, headerVersion+1),
		"another kind":    changed(1, '?'),
	} {
		_, err := decode(b, JSON[string]{})
		require.ErrorIs(t, err, errNotAValue, name)
	}
	_, err = decode(changed(1, kindTombstone), JSON[string]{})
	require.ErrorIs(t, err, errDeleted)
	header, err := decode(good[:len(good)-1], JSON[string]{})
	require.Error(t, err, "a payload that its codec refuses")
	require.NotNil(t, header, "the header is needed to replace it")
}

func FuzzDecode(f *testing.F) {
	good, err := (&entry[string]{value: "x"}).encode(JSON[string]{})
	require.NoError(f, err)
	f.Add(good)
	f.Add(good[:headerSize])
	f.Add([]byte{headerVersion, kindTombstone, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decode(b, JSON[string]{})
		if err != nil {
			return
		}
		again, err := e.encode(JSON[string]{})
		require.NoError(t, err)
		// Not the same bytes: JSON has many spellings of one string. The header must be the same.
		require.Equal(t, b[:headerSize], again[:headerSize])
	})
}
