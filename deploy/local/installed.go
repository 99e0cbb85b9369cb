package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// installed says which of the parts that can be done without this machine has. They run where they are found, with the
// configuration that compose mounts.
type installed struct {
	collector, tempo, loki, grafana bool
	grafanaHome                     string
	redisExporter                   string // its program's name; "" where there is none
}

func whatIsInstalled() installed {
	has := installed{collector: onPath("otelcol-contrib"), tempo: onPath("tempo"), loki: onPath("loki")}
	if i := slices.IndexFunc(redisExporterPrograms, onPath); i >= 0 {
		has.redisExporter = redisExporterPrograms[i]
	}
	// Grafana wants to be told where its web pages are; these are the places of its packages.
	for _, home := range []string{
		"/usr/share/grafana", "/opt/homebrew/opt/grafana/share/grafana", "/usr/local/opt/grafana/share/grafana",
	} {
		if _, err := os.Stat(filepath.Join(home, "conf", "defaults.ini")); err == nil && onPath("grafana") {
			has.grafana, has.grafanaHome = true, home
		}
	}
	return has
}

// without names the parts that are missing, for a sentence to the person; "" when none is.
func (i installed) without() string {
	var names []string
	for _, p := range []struct {
		there bool
		name  string
	}{
		{i.collector, "the collector (otelcol-contrib)"}, {i.tempo, "Tempo"}, {i.loki, "Loki"}, {i.grafana, "Grafana"},
		{i.redisExporter != "", "the exporter of Redis (redis_exporter)"},
	} {
		if !p.there {
			names = append(names, p.name)
		}
	}
	return strings.Join(names, ", ")
}

func onPath(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// needed are the programs without which nothing works; ./deploy/local/up puts them on PATH.
func needed() error {
	for _, program := range []string{"k6", "prometheus", "caddy"} {
		if !onPath(program) {
			return fmt.Errorf("%s is not on PATH; start with ./deploy/local/up, which installs what is missing", program)
		}
	}
	return nil
}
