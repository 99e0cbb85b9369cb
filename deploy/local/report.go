package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
)

// claimsTable lays out the verdicts: what the article says, what was measured, whether it holds.
func claimsTable(verdicts []verdict) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "  what the article says\tmeasured\t")
	fmt.Fprintln(w, "  ---------------------\t--------\t")
	for _, v := range verdicts {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", v.Says, v.measured(), v.word())
	}
	w.Flush()
	return b.String()
}

func (v verdict) measured() string {
	if v.Measured == nil {
		return "nothing"
	}
	digits := 0
	if small := *v.Measured < 100; small && *v.Measured != math.Trunc(*v.Measured) {
		digits = 1
	}
	return strconv.FormatFloat(*v.Measured, 'f', digits, 64) + " " + v.Unit
}

func (v verdict) word() string {
	switch {
	case !v.Holds:
		return "DOES NOT HOLD"
	case v.reported:
		return "reported"
	}
	return "holds"
}

// broken returns the ids of the claims that do not hold.
func broken(verdicts []verdict) (ids []string) {
	for _, v := range verdicts {
		if !v.Holds {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

// writeClaims writes the verdicts and the machine that they were measured on as JSON.
func writeClaims(path string, m machine, verdicts []verdict) error {
	text, err := json.MarshalIndent(struct {
		Machine machine   `json:"machine"`
		Claims  []verdict `json:"claims"`
	}{m, verdicts}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644) //nolint:gosec // made to be read by others
}
