package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// names builds the names of keys and channels in Redis:
//
//	<namespace>:cache:<name>:<version>:{<tag>}   a value
//	<namespace>:lease:<name>:<version>:{<tag>}   its lease, or a cooldown
//	<namespace>:cache:<name>                     the Pub/Sub channel
//	<namespace>:cache:<name>:{<tag>}             the shard channel of a key, on a Cluster
//	<namespace>:versions:<name>                  the versions that may be stored
//
// Only the tag is hashed to a slot, so a Cluster keeps all versions of a key and their leases on one node.
type names struct {
	value, lease, channel, versions string
	// version is the one in messages, which separate it by a space.
	version string
}

func newNames(namespace, name, version string) names {
	namespace, name, version = escape(namespace), escape(name), escape(version)
	return names{
		value:    namespace + ":cache:" + name + ":" + version + ":",
		lease:    namespace + ":lease:" + name + ":" + version + ":",
		channel:  namespace + ":cache:" + name,
		versions: namespace + ":versions:" + name,
		version:  strings.ReplaceAll(version, " ", "%20"),
	}
}

func (n names) valueKey(key string) string     { return n.value + "{" + tag(key) + "}" }
func (n names) leaseKey(key string) string     { return n.lease + "{" + tag(key) + "}" }
func (n names) shardChannel(key string) string { return n.channel + ":{" + tag(key) + "}" }

// escape makes a part of a name that contains no separator, so that different parts give different names.
var escape = strings.NewReplacer("%", "%25", ":", "%3A", "{", "%7B", "}", "%7D").Replace

const (
	// tagBytes bounds the length of a tag, and so of a key.
	tagBytes = 64
	hashed   = "sha256:"
)

// tag makes a hash tag of any text. Redis Cluster ends a tag at the first closing brace and ignores an
// empty one, so such texts are hashed, and long ones too.
func tag(key string) string {
	if key != "" && len(key) <= tagBytes && !strings.ContainsAny(key, "{}") && !strings.HasPrefix(key, hashed) {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return hashed + hex.EncodeToString(sum[:])
}
