package seed

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestALogGetsALineNowAndThen(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	now := time.Now()
	report := lines(&log, func() time.Time { return now })
	for _, p := range []Progress{
		{"loading users", 0, 0}, // a step that does not know the size yet
		{"loading views", 100, 1100},
		{"loading views", 200, 1100}, // a second later: not worth a line
		{"loading views", 300, 1100}, // two seconds later
		{"loading views", 1100, 1100},
		{"vacuuming", 1100, 1100},
	} {
		report(p)
		now = now.Add(time.Second)
	}
	require.Equal(t, `seed: loading users
seed: loading views (100 of 1100 rows)
seed: loading views (300 of 1100 rows, 8 s left)
seed: vacuuming
`, log.String())
}

func TestATerminalGetsABarThatKeepsItsLine(t *testing.T) {
	t.Parallel()
	var screen strings.Builder
	report := bars(&screen)
	report(Progress{"waiting", 0, 0})
	report(Progress{"loading views", 600, 1100})
	report(Progress{stopped, 850, 1100})
	require.True(t, strings.HasPrefix(screen.String(), "seed: waiting\n"), screen.String())
	require.Contains(t, screen.String(), "/500", "of what was left to load")
	require.True(t, strings.HasSuffix(screen.String(), "\n"), "the error that follows has a line of its own")
}
