package identity_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"nervous/app/identity"
)

const (
	secret  = "a secret of the tests, long enough"
	another = "another secret, which is as long.."
)

var tokens = identity.New(secret)

func Example() {
	tokens := identity.New("32 bytes or more, out of a vault")

	token, err := tokens.Mint(identity.Caller{User: "42", Scopes: []string{"reconcile"}}, time.Hour)
	if err != nil {
		panic(err)
	}

	// What a client sends as its Authorization header:
	caller, err := tokens.Verify("Bearer " + token)
	fmt.Println(caller.User, caller.May("reconcile"), caller.May("reset"), err)

	_, err = tokens.Verify("Bearer " + token[:len(token)-3])
	fmt.Println(err)
	// Output:
	// 42 true false <nil>
	// the token is not valid: it was not signed by HS256 with the secret of this service
}

func TestVerifyAcceptsOnlyWhatTheSecretSigned(t *testing.T) {
	t.Parallel()
	soon, past := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Second).Unix()
	claims := jwt.MapClaims{"sub": "42", "exp": soon, "scope": "reconcile"}
	ours := func(claims jwt.MapClaims) string { return sign(t, jwt.SigningMethodHS256, []byte(secret), claims) }
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)

	good := ours(claims)
	parts := strings.Split(good, ".")
	header, payload, signature := parts[0], parts[1], parts[2]
	join := func(parts ...string) string { return "Bearer " + strings.Join(parts, ".") }

	for _, c := range []struct {
		name, authorization string
		want                error
	}{
		{"good", join(good), nil},
		{"a scheme in small letters", "bearer " + good, nil},
		{"more than one space", "Bearer   " + good, nil},

		{"none", "", identity.ErrMissing},
		{"only the scheme", "Bearer", identity.ErrMissing},
		{"an empty token", "Bearer ", identity.ErrMissing},
		{"Basic", "Basic " + segment("42:password"), identity.ErrMissing},
		{"no scheme", good, identity.ErrMissing},

		{"words", "Bearer of good news", identity.ErrMalformed},
		{"one part", join(header), identity.ErrMalformed},
		{"two parts", join(header, payload), identity.ErrMalformed},
		{"four parts", join(good, signature), identity.ErrMalformed},
		{"huge", join(header, payload, strings.Repeat("A", 1<<20)), identity.ErrMalformed},
		{"a header that is no JSON", join(segment("HS256"), payload, signature), identity.ErrMalformed},
		{"a payload that is no object", join(header, segment("42"), signature), identity.ErrMalformed},
		{"padding", join(header, payload, signature+"="), identity.ErrMalformed},
		{"a line break", join(header, payload, signature+"\n"), identity.ErrMalformed},
		// The last of 43 characters has two bits more than 32 bytes need; the next letter differs only in those.
		{"the signature in other letters", join(header, payload, signature[:42]+string(signature[42]+1)),
			identity.ErrMalformed},
		{"an end that is no number", join(ours(jwt.MapClaims{"sub": "42", "exp": "tomorrow"})), identity.ErrMalformed},
		{"a user that is no string", join(ours(jwt.MapClaims{"sub": 42, "exp": soon})), identity.ErrMalformed},

		{"a tampered header", join(segment(`{"typ":"JWT","alg":"HS256"}`), payload, signature), identity.ErrSignature},
		{"a tampered payload", join(header, segment(fmt.Sprintf(`{"sub":"1","exp":%d}`, soon)), signature),
			identity.ErrSignature},
		{"a tampered signature", join(header, payload, flipFirstBit(t, signature)), identity.ErrSignature},
		{"half a signature", join(header, payload, signature[:20]), identity.ErrSignature},
		{"no signature", join(header, payload, ""), identity.ErrSignature},
		{"the wrong secret", join(sign(t, jwt.SigningMethodHS256, []byte(another), claims)), identity.ErrSignature},
		{"an empty secret", join(sign(t, jwt.SigningMethodHS256, []byte{}, claims)), identity.ErrSignature},
		{"none", join(sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims)), identity.ErrSignature},
		{"none, with a signature of ours", join(segment(`{"alg":"none"}`), payload, signature), identity.ErrSignature},
		{"HS512 by our secret", join(sign(t, jwt.SigningMethodHS512, []byte(secret), claims)), identity.ErrSignature},
		{"RS256", join(sign(t, jwt.SigningMethodRS256, rsaKey, claims)), identity.ErrSignature},
		{"an unknown algorithm", join(segment(`{"alg":"HS1"}`), payload, signature), identity.ErrSignature},
		{"no algorithm", join(segment(`{}`), payload, signature), identity.ErrSignature},

		{"expired", join(ours(jwt.MapClaims{"sub": "42", "exp": past})), identity.ErrExpired},
		{"not yet valid", join(ours(jwt.MapClaims{"sub": "42", "exp": soon, "nbf": soon})), identity.ErrNotYetValid},
		{"no end", join(ours(jwt.MapClaims{"sub": "42"})), identity.ErrIncomplete},
		{"no user", join(ours(jwt.MapClaims{"exp": soon})), identity.ErrIncomplete},
		{"an empty user", join(ours(jwt.MapClaims{"sub": "", "exp": soon})), identity.ErrIncomplete},
		{"no claims", join(ours(nil)), identity.ErrIncomplete},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			caller, err := tokens.Verify(c.authorization)
			if c.want == nil {
				require.NoError(t, err)
				require.Equal(t, identity.Caller{User: "42", Scopes: []string{"reconcile"}}, caller)
				return
			}
			require.Zero(t, caller)
			require.Equal(t, c.want, err, "and nothing around it, which might quote the token")
			require.Equal(t, !errors.Is(c.want, identity.ErrMissing), errors.Is(err, identity.ErrInvalid))
		})
	}
}

func sign(t *testing.T, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(method, claims).SignedString(key)
	require.NoError(t, err)
	return token
}

// segment encodes one of a token's parts.
func segment(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

func flipFirstBit(t *testing.T, segment string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(segment)
	require.NoError(t, err)
	b[0] ^= 1 << 7
	return base64.RawURLEncoding.EncodeToString(b)
}

func TestMintedIsVerified(t *testing.T) {
	t.Parallel()
	for _, caller := range []identity.Caller{
		{User: "42", Scopes: []string{}},
		{User: "42", Scopes: []string{"reconcile"}},
		{User: `{"sub":"Ada Lovelace"} 🦆`, Scopes: []string{"reconcile", "reset", `"`}},
		{User: strings.Repeat("4", 2000), Scopes: []string{}},
	} {
		token, err := tokens.Mint(caller, time.Hour)
		require.NoError(t, err)
		got, err := tokens.Verify("Bearer " + token)
		require.NoError(t, err)
		require.Equal(t, caller, got)

		_, err = identity.New(another).Verify("Bearer " + token)
		require.ErrorIs(t, err, identity.ErrSignature)
	}
}

func TestATokenEndsWithItsLifetime(t *testing.T) {
	t.Parallel()
	token, err := tokens.Mint(identity.Caller{User: "42"}, time.Second)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := tokens.Verify("Bearer " + token)
		return errors.Is(err, identity.ErrExpired)
	}, 5*time.Second, 10*time.Millisecond)
}

func TestMintListsAllThatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := tokens.Mint(identity.Caller{Scopes: []string{"reconcile", "two words", ""}}, -time.Hour)
	require.EqualError(t, err, "a token needs a user, in UTF-8\n"+
		"a token lives for at least 1s\n"+
		`"two words" is not a scope, which is one word in UTF-8`+"\n"+
		`"" is not a scope, which is one word in UTF-8`)

	_, err = tokens.Mint(identity.Caller{User: "\xff", Scopes: []string{"\xff"}}, time.Hour)
	require.ErrorContains(t, err, "user")
	require.ErrorContains(t, err, "scope")

	_, err = tokens.Mint(identity.Caller{User: strings.Repeat("4", 4000)}, time.Hour)
	require.ErrorContains(t, err, "bytes", "Verify would refuse it")
}

func TestWithoutASecretNothingIsAccepted(t *testing.T) {
	t.Parallel()
	token := sign(t, jwt.SigningMethodHS256, []byte{}, jwt.MapClaims{"sub": "42", "exp": time.Now().Add(time.Hour).Unix()})
	_, err := identity.Tokens{}.Verify("Bearer " + token)
	require.ErrorIs(t, err, identity.ErrInvalid)
	require.Panics(t, func() { identity.New("a short secret") })
}
