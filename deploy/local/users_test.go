package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/app/identity"
)

func TestUsersTakeTurns(t *testing.T) {
	t.Parallel()
	u, err := newUsers()
	require.NoError(t, err)
	asked := map[string]int{}
	for range 3 * howManyUsers {
		caller, err := identity.New(tokenSecret).Verify(u.next())
		require.NoError(t, err)
		require.True(t, caller.May("reconcile"))
		asked[caller.User]++
	}
	require.Len(t, asked, howManyUsers)
	for _, times := range asked {
		require.Equal(t, 3, times)
	}
}
