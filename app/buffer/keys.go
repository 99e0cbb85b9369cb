package buffer

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// keys names what one buffer has in Redis:
//
//	<namespace>:buffer:{<tag>}:open, open:manifest     ids that no flush has begun with
//	<namespace>:buffer:{<tag>}:generations             the generations that are not acknowledged
//	<namespace>:buffer:{<tag>}:gen:<id>[:manifest]     one generation
//	<namespace>:buffer:{<tag>}:lease:<id>              its lease, the only key that expires
//	<namespace>:buffer:{<tag>}:held                    how many ids are in generations
//	<namespace>:buffers                                the index: the buffers that may have something
//
// The tag is made from the family's name and the buffer's, so a Cluster keeps a buffer on one node. The index has both
// names as they are. No key carries a version of the code: buffers outlive releases.
type keys struct {
	prefix        string
	index, member string
}

func (o *Options[ID]) keys(name string) keys {
	member := o.member(name)
	return keys{
		prefix: escape(o.Namespace) + ":buffer:{" + tag(member) + "}:",
		index:  o.index(), member: member,
	}
}

func (o *Options[ID]) index() string { return escape(o.Namespace) + ":buffers" }

// member is a buffer's name in the index. The family's part ends at the first colon, the rest is the buffer's name.
func (o *Options[ID]) member(name string) string { return escape(o.Name) + ":" + name }

func (k keys) of(what string) string { return k.prefix + what }

// escape makes a part of a name that contains no separator, so that different parts give different names.
var escape = strings.NewReplacer("%", "%25", ":", "%3A", "{", "%7B", "}", "%7D").Replace

const (
	// tagBytes bounds the length of a tag, and so of a key.
	tagBytes = 64
	hashed   = "sha256:"
)

// tag makes a hash tag of any text. Redis Cluster ends a tag at the first closing brace and ignores an empty one, so
// such texts are hashed, and long ones too.
func tag(text string) string {
	if text != "" && len(text) <= tagBytes && !strings.ContainsAny(text, "{}") && !strings.HasPrefix(text, hashed) {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return hashed + hex.EncodeToString(sum[:])
}
