package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestACrashExplainsWhateverFailedWithIt(t *testing.T) {
	t.Parallel()
	ctx, crash := context.WithCancelCause(t.Context())
	d := &deployment{dir: t.TempDir()}
	crash(&partError{name: "postgres", how: "ended by itself"})
	require.EqualError(t, d.why(ctx, errors.New("k6 failed")), "postgres ended by itself; its log is empty")
	require.EqualError(t, d.why(ctx, nil), "postgres ended by itself; its log is empty")
}

func TestASignalIsAFaultOnlyBeforeTheClaims(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	d := &deployment{dir: t.TempDir()}
	stop()
	require.NoError(t, d.why(ctx, nil))
	require.EqualError(t, d.why(ctx, context.Cause(ctx)), "ended before the claims: context canceled")
}

func TestAMissedThresholdIsToldEvenIfTheClaimsHold(t *testing.T) {
	t.Parallel()
	require.NoError(t, verdictOf(nil, true))
	require.ErrorContains(t, verdictOf(nil, false), "missed a threshold")
	require.EqualError(t, verdictOf([]verdict{{ID: "a.b"}}, true), "1 claim(s) do not hold: a.b")
}

func TestClaimsAsJSON(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "claims.json")
	verdicts := judge(measured(t, asPromised))
	require.NoError(t, writeClaims(path, machine{OS: "linux", Cores: 2}, verdicts))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var file struct {
		Machine map[string]any
		Claims  []map[string]any
	}
	require.NoError(t, json.Unmarshal(text, &file))
	require.EqualValues(t, 2, file.Machine["cores"])
	require.Equal(t, map[string]any{
		"id": "trending.lease.fills", "says": file.Claims[5]["says"], "measured": 1.0, "unit": "fills", "holds": true,
	}, file.Claims[5])
}

func TestADiskThatIsTooSmallIsRefused(t *testing.T) {
	t.Parallel()
	require.NoError(t, enoughSpace(t.TempDir(), 0))
	require.ErrorContains(t, enoughSpace(t.TempDir(), 1<<40), "MB free and this needs 1099511627776")
}

func TestFlags(t *testing.T) {
	t.Parallel()
	o, err := parse([]string{"-once", "-json", "c.json", "-scale", "small", "-port", "9000"}, t.Output())
	require.NoError(t, err)
	require.Equal(t, options{once: true, json: "c.json", scale: "small", port: 9000}, o)
	for _, wrong := range [][]string{{"-scale", "medium"}, {"-port", "65533"}, {"-port", "0"}, {"now"}, {"-nope"}} {
		_, err := parse(wrong, t.Output())
		require.Error(t, err, wrong)
	}
}

func TestAClaimsFileThatCannotBeWrittenIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, canBeWritten(""))
	require.NoError(t, canBeWritten(filepath.Join(dir, "claims.json")))
	require.Error(t, canBeWritten(filepath.Join(dir, "missing", "claims.json")))
}
