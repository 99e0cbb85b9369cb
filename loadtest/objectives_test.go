package loadtest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAPromiseNeedsANumberAndAUnit(t *testing.T) {
	t.Parallel()
	promised, err := Objectives()
	require.NoError(t, err)
	require.NotEmpty(t, promised)
	for _, incomplete := range []string{
		`{"p95": {"promise": "fast", "number": 0.2}}`,
		`{"p95": {"promise": "fast", "unit": "s"}}`,
		`{"p95": {"number": 0.2, "unit": "s"}}`,
		`{"p95": 0.2}`,
	} {
		_, err := read([]byte(incomplete))
		require.Error(t, err, incomplete)
	}
}
