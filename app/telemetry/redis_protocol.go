package telemetry

import (
	"bytes"
	"strings"
)

// commandReader finds the commands in what is written to a connection: arrays of bulk strings, as the Redis protocol
// has it (https://redis.io/docs/latest/develop/reference/protocol-spec/), in pieces that may end anywhere. It looks at
// the name, for some commands at the word after it, and steps over everything else without a look.
type commandReader struct {
	line []byte // a line that has not ended yet: *3 or $5
	skip int    // bytes of a bulk string, and the end of its line, that are still to come
	left int    // bulk strings of this command that are still to come
	name []byte // as far as it came; empty where nobody wants to know
	word int    // which word is being read: 0 is the name

	found command // the current one, and until its name is known the one before
}

// longest is more than any word that tells commands apart has.
const longest = 64

// follow reads on, and tells of each command whose words were read.
func (r *commandReader) follow(b []byte, tell func(command)) {
	for len(b) > 0 {
		if r.skip > 0 {
			b = r.content(b, tell)
			continue
		}
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			r.line = append(r.line, b...)
			return
		}
		if len(r.line) == 0 {
			r.header(b[:end])
		} else {
			r.header(append(r.line, b[:end]...))
			r.line = r.line[:0]
		}
		b = b[end+1:]
	}
}

// header reads how many bulk strings follow, or how long the next one is.
func (r *commandReader) header(line []byte) {
	if len(line) == 0 {
		return
	}
	n := 0
	for _, digit := range bytes.TrimRight(line[1:], "\r") {
		n = 10*n + int(digit-'0')
	}
	switch line[0] {
	case '*':
		r.left, r.word = n, 0
	case '$':
		r.skip, r.name = n+len("\r\n"), r.name[:0]
	}
}

// content reads, or steps over, what has come of a bulk string, and returns the rest.
func (r *commandReader) content(b []byte, tell func(command)) []byte {
	n := min(r.skip, len(b))
	if r.wanted() {
		r.name = append(r.name, b[:min(n, longest-len(r.name))]...)
	}
	if r.skip -= n; r.skip == 0 {
		r.ended(tell)
	}
	return b[n:]
}

// wanted says whether the current word belongs to the command's name.
func (r *commandReader) wanted() bool { return r.word == 0 || r.word == 1 && containers[r.found.name] }

// ended takes the word that is complete now.
func (r *commandReader) ended(tell func(command)) {
	if r.wanted() {
		r.keep(bytes.TrimRight(r.name, "\r\n"))
	}
	isContainer := containers[r.found.name]
	if r.word == 0 && (!isContainer || r.left == 1) || r.word == 1 && isContainer {
		tell(r.found)
	}
	r.word++
	r.left--
}

// keep makes text of a word, unless it is the one of the command before.
func (r *commandReader) keep(word []byte) {
	switch {
	case r.word == 1:
		r.found.detail = strings.ToLower(string(word))
	case string(word) != r.found.name || r.found.detail != "":
		r.found = command{name: strings.ToLower(string(word))}
	}
}
