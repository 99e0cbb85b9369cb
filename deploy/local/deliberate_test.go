package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatIsEndedOnPurposeIsNoCrashAndMayComeBack(t *testing.T) {
	t.Parallel()
	for name, deliberately := range map[string]func(*supervisor, string) error{
		"end": (*supervisor).end, "kill": (*supervisor).kill,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ctx := newSupervisor(t)
			reading, writing := witness(t)
			p := shell("leader", "echo ready; exec sleep 1000")
			p.output = writing
			require.NoError(t, s.start(ctx, p))
			requireLine(t, reading, "ready")
			require.NoError(t, deliberately(s, "leader"))
			require.Error(t, deliberately(s, "leader"), "it is gone")

			require.NoError(t, s.start(ctx, p))
			requireLine(t, reading, "ready")
			require.NoError(t, s.stop())
			writing.Close()
			requireNobodyLeft(t, reading)
			require.NoError(t, ctx.Err(), "the run goes on")
		})
	}
}

func TestWhatCameBackIsWatchedAgain(t *testing.T) {
	t.Parallel()
	s, ctx := newSupervisor(t)
	require.NoError(t, s.start(ctx, shell("leader", "exec sleep 1000")))
	require.NoError(t, s.kill("leader"))
	require.NoError(t, s.start(ctx, shell("leader", "exit 3")))
	<-ctx.Done()
}
