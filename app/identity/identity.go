// Package identity says who is calling: it mints bearer tokens and verifies them, and tells callers without one apart
// by their addresses.
//
// A token is a JWT signed by HMAC-SHA256 (HS256) with one secret that all replicas share. Its claims are sub (the
// user), exp (until when) and scope (what the user may do beyond calling, separated by spaces). Verifying asks nobody:
// it costs no round-trip and works while the stores are away.
//
// # What it promises
//
// Verify accepts a token only if it was signed with the secret by HS256, whatever its own header claims, names a user
// and an end, and that end has not come. What Mint returns Verify accepts, and it finds the same caller in it. No error
// repeats any part of a token, and a Secret shows itself to no logger. Host gives one name to all the
// addresses that a single machine commonly has.
//
// # How it fails
//
// Whoever learns the secret can be everybody; changing it ends all tokens at once, and replicas that disagree about it
// refuse each other's. Whoever learns a token is its user until it expires: nothing revokes a single one, so let them
// be short and travel encrypted. Clocks are trusted to the second: on a replica whose clock is ten seconds ahead every
// token ends ten seconds early.
//
// Whoever has addresses in many networks is many hosts, and an office behind one address is one. Which address a
// request comes from is not found out here.
//
// To lift it, copy this folder: it needs golang-jwt.
package identity

import "slices"

// Caller is who a token speaks for.
type Caller struct {
	// User is an opaque id.
	User string

	// Scopes are words that open what is closed to others.
	Scopes []string
}

// May says whether the caller was given the scope.
func (c Caller) May(scope string) bool { return slices.Contains(c.Scopes, scope) }
