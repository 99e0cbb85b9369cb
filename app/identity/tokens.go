package identity

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// ErrMissing answers a request that shows no bearer token at all.
var ErrMissing = errors.New("there is no bearer token")

// ErrInvalid is what all of the reasons below are: a token was shown, and it opens nothing.
var (
	ErrInvalid     = errors.New("the token is not valid")
	ErrMalformed   = fmt.Errorf("%w: it is not a JWT", ErrInvalid)
	ErrSignature   = fmt.Errorf("%w: it was not signed by HS256 with the secret of this service", ErrInvalid)
	ErrExpired     = fmt.Errorf("%w: it has expired", ErrInvalid)
	ErrNotYetValid = fmt.Errorf("%w: its time has not come yet", ErrInvalid)
	ErrIncomplete  = fmt.Errorf("%w: it must say for whom it is (sub) and until when (exp)", ErrInvalid)
)

// maxTokenBytes bounds the work for a token that nobody has signed: it is decoded before its signature can be checked.
const maxTokenBytes = 4 << 10

// Tokens mints and verifies with one secret. The zero value accepts no token.
type Tokens struct {
	// A function and not the secret itself, which whoever prints a struct around this would see.
	key jwt.Keyfunc
}

// New returns Tokens by that secret. It panics on one that is too short, because whoever reads it checks it first.
func New(secret Secret) Tokens {
	if len(secret) < MinSecretBytes {
		panic(fmt.Sprintf("identity: the secret has %d bytes, and needs %d", len(secret), MinSecretBytes))
	}
	return Tokens{func(*jwt.Token) (any, error) { return []byte(secret), nil }}
}

// claims is what a token says.
type claims struct {
	jwt.RegisteredClaims
	Scope string `json:"scope,omitempty"`
}

// Validate is called by the library once the signature has been found right.
func (c claims) Validate() error {
	if c.Subject == "" {
		return jwt.ErrTokenRequiredClaimMissing
	}
	return nil
}

// The token's own word for its algorithm is not taken: "none", or a public key used as a secret, would open the door.
// Strict, because otherwise the last character of a signature could be one of several.
var parser = jwt.NewParser(
	jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithExpirationRequired(), jwt.WithStrictDecoding(),
)

// Verify says who is calling by the value of an Authorization header, `Bearer TOKEN`. Its error is ErrMissing or one of
// the reasons that are ErrInvalid.
func (t Tokens) Verify(authorization string) (Caller, error) {
	scheme, token, _ := strings.Cut(authorization, " ")
	token = strings.TrimLeft(token, " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return Caller{}, ErrMissing
	}
	// The decoder skips line breaks, which would let one token be written in many ways.
	if len(token) > maxTokenBytes || strings.ContainsAny(token, "\r\n") {
		return Caller{}, ErrMalformed
	}
	var c claims
	if _, err := parser.ParseWithClaims(token, &c, t.key); err != nil {
		return Caller{}, reason(err)
	}
	return Caller{c.Subject, strings.Fields(c.Scope)}, nil
}

// reason replaces the library's error, which may quote the token.
func reason(err error) error {
	switch {
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return ErrSignature
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return ErrIncomplete
	case errors.Is(err, jwt.ErrTokenExpired):
		return ErrExpired
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return ErrNotYetValid
	}
	return ErrMalformed
}

// Mint returns a token for the caller that ends after the lifetime, rounded down to a second. Its error lists all that
// is wrong with what was asked for.
func (t Tokens) Mint(c Caller, lifetime time.Duration) (string, error) {
	var faults []error
	if c.User == "" || !utf8.ValidString(c.User) {
		faults = append(faults, errors.New("a token needs a user, in UTF-8"))
	}
	if lifetime < time.Second {
		faults = append(faults, errors.New("a token lives for at least 1s"))
	}
	for _, scope := range c.Scopes {
		if !slices.Equal(strings.Fields(scope), []string{scope}) || !utf8.ValidString(scope) {
			faults = append(faults, fmt.Errorf("%q is not a scope, which is one word in UTF-8", scope))
		}
	}
	if len(faults) > 0 {
		return "", errors.Join(faults...)
	}
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		jwt.RegisteredClaims{Subject: c.User, ExpiresAt: jwt.NewNumericDate(time.Now().Add(lifetime))},
		strings.Join(c.Scopes, " "),
	})
	key, err := t.key(token)
	if err != nil {
		return "", err
	}
	signed, err := token.SignedString(key)
	if len(signed) > maxTokenBytes {
		return "", fmt.Errorf("the token has %d bytes, and may have %d", len(signed), maxTokenBytes)
	}
	return signed, err
}
