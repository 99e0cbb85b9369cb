package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
)

// shown is what the dashboards show of a run.
type shown struct{ without []string } // the queries that found nothing

func (s *shown) empty() *float64 {
	if s == nil {
		return nil
	}
	return new(float64(len(s.without)))
}

// withoutData is how the tests of package dashboards name a query that found nothing.
var withoutData = regexp.MustCompile(`(?m)^\s+live_test\.go:\d+: (.+ is empty: .+)$`)

// dashboards asks every query that Grafana would ask, by the tests that package dashboards has for that.
func (d *deployment) dashboards(ctx context.Context) (*shown, error) {
	d.say("the dashboards: does every query find something?")
	check := exec.CommandContext(ctx, "go", "test", "-count=1",
		"-run=^(TestPanelsHaveData|TestSpansLeadToData|TestVariablesAndAnnotationsHaveData)$", "./dashboards")
	check.Dir, check.Env = d.root, append(os.Environ(), "PROMETHEUS_URL="+d.at.prometheus.url())
	output, err := check.CombinedOutput()
	found := &shown{}
	for _, line := range withoutData.FindAllSubmatch(output, -1) {
		found.without = append(found.without, string(line[1]))
		fmt.Fprintf(d.out, "         %s\n", line[1])
	}
	_, failed := errors.AsType[*exec.ExitError](err)
	if err != nil && (!failed || len(found.without) == 0) {
		return nil, fmt.Errorf("the dashboards could not be asked: %w\n%s", err, bytes.TrimSpace(output))
	}
	return found, nil
}
