package seed

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Print returns a Report that shows the progress to people: a bar with the time that is left where w is a terminal, and
// a line every few seconds where it is a log.
func Print(w io.Writer) func(Progress) {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return bars(w)
	}
	return lines(w, time.Now)
}

func bars(w io.Writer) func(Progress) {
	var bar *progressbar.ProgressBar
	var before int
	return func(p Progress) {
		loading := p.Rows < p.Of && p.Doing != stopped
		switch {
		case loading && bar == nil:
			// What earlier runs have loaded is left out: the bar would take it for speed.
			before = p.Rows
			bar = progressbar.NewOptions(p.Of-before,
				progressbar.OptionSetWriter(w), progressbar.OptionSetWidth(30), progressbar.OptionShowCount(),
				progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond))
			fallthrough
		case loading:
			bar.Describe(fmt.Sprintf("seed: %-19s", p.Doing))
			_ = bar.Set(p.Rows - before)
		case bar != nil: // the last row, or the end of a failed run: the bar stays as it is, on a line of its own
			_ = bar.Set(p.Rows - before)
			_ = bar.Exit()
			fmt.Fprintln(w)
			bar = nil
		default:
			fmt.Fprintln(w, "seed:", p.Doing)
		}
	}
}

// lines prints what is new: another activity at once, more rows of the same every two seconds.
func lines(w io.Writer, now func() time.Time) func(Progress) {
	const every = 2 * time.Second
	var began, printed time.Time
	var doing string
	var before int
	return func(p Progress) {
		at := now()
		if p.Doing == doing && (at.Sub(printed) < every || p.Rows == p.Of) {
			return
		}
		if began.IsZero() && p.Of > 0 {
			began, before = at, p.Rows
		}
		doing, printed = p.Doing, at
		line := "seed: " + p.Doing
		if p.Rows < p.Of {
			line += fmt.Sprintf(" (%d of %d rows", p.Rows, p.Of)
			if spent := at.Sub(began); spent >= every && p.Rows > before { // sooner it would be a guess
				left := spent.Seconds() / float64(p.Rows-before) * float64(p.Of-p.Rows)
				line += fmt.Sprintf(", %.0f s left", left)
			}
			line += ")"
		}
		fmt.Fprintln(w, line)
	}
}
