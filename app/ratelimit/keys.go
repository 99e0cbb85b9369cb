package ratelimit

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// names are the limiter's keys and its channel in Redis. All begin with the namespace, so two services with different
// namespaces share neither limits nor resets nor heartbeats.
type names struct {
	// caller begins the key of what a caller has spent: `<namespace>:ratelimit:{`.
	caller   string
	replicas string
	resets   string
}

func newNames(namespace string) names {
	prefix := escape(namespace) + ":ratelimit:"
	return names{caller: prefix + "{", replicas: prefix + "replicas", resets: prefix + "resets"}
}

// spent is where Redis keeps what a caller has spent of the policy:
// `<namespace>:ratelimit:{<tag>}:<policy>:<strategy>`. The caller is the hash tag, so a Cluster keeps all of its
// policies in one slot.
func (n names) spent(tag, suffix string) string { return n.caller + tag + suffix }

var escapes = strings.NewReplacer("%", "%25", ":", "%3A", "{", "%7B", "}", "%7D")

// escape makes a text a part of a key that no other text can be mistaken for.
func escape(text string) string { return escapes.Replace(text) }

// tagBytes bounds a caller's text in Redis and in memory.
const tagBytes = 64

// hashed begins the tags that are a hash.
const hashed = "sha256:"

// tag returns a hash tag for the caller's text: the text itself, or its hash if it is empty or long, would end the tag
// too early, or looks like a hash.
func tag(caller string) string {
	if caller != "" && len(caller) <= tagBytes &&
		!strings.ContainsAny(caller, "{}") && !strings.HasPrefix(caller, hashed) {
		return caller
	}
	hash := sha256.Sum256([]byte(caller))
	return hashed + hex.EncodeToString(hash[:])
}
