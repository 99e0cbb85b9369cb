package identity_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/app/identity"
)

func TestASecretDoesNotShow(t *testing.T) {
	t.Parallel()
	type config struct{ Secret identity.Secret }
	// What a service keeps: a field that is not exported is out of reach of the methods that hide it.
	type service struct{ tokens identity.Tokens }

	for _, holder := range []any{
		identity.Secret(secret), new(identity.Secret(secret)), []identity.Secret{secret},
		config{secret}, &config{secret}, map[string]config{"nested": {secret}},
		tokens, service{tokens}, &service{tokens},
	} {
		var shown bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
			fmt.Fprintf(&shown, verb+"\n", holder)
		}
		slog.New(slog.NewTextHandler(&shown, nil)).InfoContext(t.Context(), "as text", "holder", holder)
		slog.New(slog.NewJSONHandler(&shown, nil)).InfoContext(t.Context(), "as JSON", "holder", holder)
		asJSON, err := json.Marshal(holder)
		require.NoError(t, err)
		shown.Write(asJSON)

		for _, form := range []string{"%s", "%x", "%X", "%v"} {
			// %v is how bytes print: in decimal.
			require.NotContains(t, shown.String(), fmt.Sprintf(form, []byte(secret)), "%T", holder)
		}
	}
}
