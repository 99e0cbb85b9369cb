package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// String draws the wait: the trace of the request that waited, the link, and the trace that it leads to.
func (w wait) String() string {
	var b strings.Builder
	target := byID(w.work)[w.holder.span]
	fmt.Fprintf(&b, "This request, on %s, found nothing in Redis and somebody already at work on it:\n\n",
		w.waiter.replica)
	fmt.Fprintf(&b, "  trace %s\n", w.waiter.trace)
	draw(&b, w.waiters, w.waiter.id, "waited; its link leads to the span marked below")
	fmt.Fprintf(&b, "\nIts link says whose answer it waited for: this request's, on %s.\n\n", target.replica)
	fmt.Fprintf(&b, "  trace %s\n", w.holder.trace)
	draw(&b, w.work, target.id, "the link leads here")
	return b.String()
}

// draw writes a trace as a tree, with durations, and a note at one span. Calls that repeat, as a waiter's looks do, are
// one line.
func draw(b *strings.Builder, spans []*span, marked, note string) {
	index, children := byID(spans), map[string][]*span{}
	var roots []*span
	for _, s := range spans {
		if index[s.parent] == nil {
			roots = append(roots, s)
			continue
		}
		children[s.parent] = append(children[s.parent], s)
	}
	var lines []line
	var walk func(siblings []*span, indent string, top bool)
	walk = func(siblings []*span, indent string, top bool) {
		slices.SortFunc(siblings, func(a, b *span) int { return cmp.Or(a.start.Compare(b.start), cmp.Compare(a.id, b.id)) })
		for len(siblings) > 0 {
			s, same := siblings[0], alike(siblings, children)
			siblings = siblings[same:]
			branch, deeper := "├─ ", "│  "
			switch {
			case top:
				branch, deeper = "", ""
			case len(siblings) == 0:
				branch, deeper = "└─ ", "   "
			}
			l := line{text: indent + branch + s.label(), took: s.end.Sub(s.start)}
			if same > 1 {
				l.note = fmt.Sprintf("  and %d more like it", same-1)
			}
			if s.id == marked {
				l.note = "  <- " + note
			}
			lines = append(lines, l)
			walk(children[s.id], indent+deeper, false)
		}
	}
	walk(roots, "", true)

	width := 0
	for _, l := range lines {
		width = max(width, utf8.RuneCountInString(l.text))
	}
	for _, l := range lines {
		pad := strings.Repeat(" ", width-utf8.RuneCountInString(l.text))
		fmt.Fprintf(b, "  %s%s %9.1f ms%s\n", l.text, pad, float64(l.took)/float64(time.Millisecond), l.note)
	}
}

type line struct {
	text string
	took time.Duration
	note string
}

// alike counts how many siblings from the first on are calls of the same kind that called nothing themselves.
func alike(siblings []*span, children map[string][]*span) int {
	n := 1
	for n < len(siblings) && siblings[n].label() == siblings[0].label() &&
		len(children[siblings[0].id]) == 0 && len(children[siblings[n].id]) == 0 {
		n++
	}
	return n
}

// label names a span as a reader would: with the script, the cache's verdict and the store where it has them.
func (s *span) label() string {
	label := s.name
	if script := s.attributes["db.stored_procedure.name"]; script != "" {
		label += " " + script
	}
	if result := s.attributes["cache.result"]; result != "" {
		label += " (" + result + ")"
	}
	if system := s.attributes["db.system.name"]; system != "" {
		label += " [" + system + "]"
	}
	return label
}
