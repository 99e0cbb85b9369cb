package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestATakeoverIsReadFromTheAnswersOfTheLiving(t *testing.T) {
	t.Parallel()
	killed := time.Now()
	after := func(replica, result string, ms int) asked {
		return asked{replica: replica, at: killed.Add(time.Duration(ms) * time.Millisecond), result: result}
	}
	filler := after("app-3", "miss", 3602)
	filler.query = 1200 * time.Millisecond
	require.Equal(t, &takeover{took: 3600 * time.Millisecond, fill: 1200 * time.Millisecond, fills: 1, failed: 1},
		survived([]asked{
			after("app-1", "", 1), after("app-1", "wait", 2), // of the one that died
			after("app-2", "wait", 3610), after("app-3", "wait", 3600), filler, after("app-2", "", 30_000),
		}, "app-1", killed))
}

func TestAnAnswerTellsHowItWasComeBy(t *testing.T) {
	t.Parallel()
	found := serverTiming.FindAllStringSubmatch(
		`cache;desc="miss";dur=1234.567, redis;desc="3 round-trips";dur=1.5, db;desc="2 round-trips";dur=1200.250`, -1)
	require.Len(t, found, 2)
	require.Equal(t, []string{"cache", "miss", "1234.567"}, found[0][1:])
	require.Equal(t, []string{"db", "2 round-trips", "1200.250"}, found[1][1:])
}
