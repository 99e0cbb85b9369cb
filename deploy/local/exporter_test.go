package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// Only an exporter that is there is a target, and by the job that compose gives it.
func TestOnlyAnExporterThatIsThereIsScraped(t *testing.T) {
	t.Parallel()
	without := t.TempDir()
	require.NoError(t, (&deployment{}).scrape(without))
	require.NoDirExists(t, filepath.Join(without, "scrape"))

	with := t.TempDir()
	d := &deployment{has: installed{redisExporter: "redis_exporter"}}
	require.NoError(t, d.reserveExporter())
	require.NoError(t, d.scrape(with))
	here, compose := jobs(t, filepath.Join(with, "scrape", "local.yml")), jobs(t, "../prometheus/scrape/compose.yml")
	require.Contains(t, compose, "redis")
	require.Equal(t, map[string][]string{"redis": {d.exporter.address()}}, here)
}

// jobs reads the targets of each job.
func jobs(t *testing.T, file string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var found struct {
		Jobs []struct {
			Name   string                       `yaml:"job_name"`
			Static []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	require.NoError(t, yaml.Unmarshal(text, &found))
	targets := map[string][]string{}
	for _, job := range found.Jobs {
		for _, static := range job.Static {
			targets[job.Name] = append(targets[job.Name], static.Targets...)
		}
	}
	return targets
}
