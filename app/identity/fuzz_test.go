package identity_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/identity"
)

// FuzzVerify holds Verify to a second opinion, which is made of crypto/hmac alone: no text is accepted whose last part
// is not the signature of the rest.
func FuzzVerify(f *testing.F) {
	good, err := tokens.Mint(identity.Caller{User: "42", Scopes: []string{"reconcile"}}, time.Hour)
	require.NoError(f, err)
	for _, seed := range []string{
		"", "Bearer", "Basic NDI6", "Bearer " + good, "bearer  " + good, "Bearer " + good + ".", "Bearer " + good + "\n",
		"Bearer " + good[:len(good)-1], "Bearer ..", "Bearer " + segment(`{"alg":"none"}`) + "." + segment(`{}`) + ".",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, authorization string) {
		caller, err := tokens.Verify(authorization)
		if err != nil {
			require.NotEqual(t, errors.Is(err, identity.ErrMissing), errors.Is(err, identity.ErrInvalid))
			return
		}
		token := strings.TrimLeft(authorization[len("Bearer"):], " ")
		dot := strings.LastIndex(token, ".")
		require.Equal(t, hs256(token[:dot]), token[dot+1:])
		require.NotEmpty(t, caller.User)
	})
}

// FuzzVerifySigned is about what whoever has the secret may have signed by mistake.
func FuzzVerifySigned(f *testing.F) {
	for _, seed := range []string{
		`{"sub":"42","exp":4102444800}`, `{"sub":"42","exp":1e300}`, `{"sub":"42","exp":-1}`, `{"exp":null}`, `null`, `[]`,
		`{"sub":"42","exp":4102444800,"aud":[1]}`, `{"SUB":"42","exp":4102444800,"scope":"\u00a0"}`,
	} {
		f.Add(`{"alg":"HS256"}`, seed)
	}
	f.Fuzz(func(t *testing.T, header, payload string) {
		unsigned := segment(header) + "." + segment(payload)
		caller, err := tokens.Verify("Bearer " + unsigned + "." + hs256(unsigned))
		require.NotErrorIs(t, err, identity.ErrMissing)
		require.Equal(t, err == nil, caller.User != "")
		require.False(t, caller.May(""))
	})
}

func hs256(text string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
