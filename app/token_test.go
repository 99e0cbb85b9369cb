package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/identity"
)

// mint runs `app token`, with TOKEN_SECRET alone in its environment.
func mint(t *testing.T, secret string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, said bytes.Buffer
	p := program{environment(map[string]string{"TOKEN_SECRET": secret}), &out, &said}
	err = run(t.Context(), p, append([]string{"token"}, args...))
	return out.String(), said.String(), err
}

func TestTokenPrintsATokenAndNothingElse(t *testing.T) {
	t.Parallel()
	stdout, stderr, err := mint(t, tokenSecret, "-user", "42", "-scope", "reconcile reset", "-ttl", time.Minute.String())
	require.NoError(t, err)
	require.Empty(t, stderr)
	token, found := strings.CutSuffix(stdout, "\n")
	require.True(t, found)

	caller, err := identity.New(tokenSecret).Verify("Bearer " + token)
	require.NoError(t, err)
	require.Equal(t, identity.Caller{User: "42", Scopes: []string{"reconcile", "reset"}}, caller)
}

func TestTokenSaysAllThatIsWrong(t *testing.T) {
	t.Parallel()
	stdout, stderr, err := mint(t, tokenSecret, "-ttl", "-1s", "please")
	require.ErrorIs(t, err, errUsage)
	require.Empty(t, stdout)
	for _, fault := range []string{"needs a user", "lives for at least 1s", `no use for ["please"]`, "Usage of token:"} {
		require.Contains(t, stderr, fault)
	}

	_, _, err = mint(t, "", "-user", "42")
	require.ErrorContains(t, err, "TOKEN_SECRET is required and not set")
	_, stderr, err = mint(t, "too short", "-user", "42")
	require.ErrorContains(t, err, "TOKEN_SECRET has 9 bytes and must have at least 32")
	require.NotContains(t, err.Error()+stderr, "too short")
}
