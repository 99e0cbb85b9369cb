package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// What Redis says of itself is scraped where the machine has the exporter; the audit knows what that sends. The one of
// Postgres stays out: Debian's cannot count statements, and here the service's role is not the one that the dashboards
// ask for, so that panels that say what is missing would turn into empty ones.

// redisExporterPrograms are the names that its own releases and Debian's package give it.
var redisExporterPrograms = []string{"redis_exporter", "prometheus-redis-exporter"}

// reserveExporter finds the exporter a free port: at the usual one Debian's package runs an exporter of its own.
func (d *deployment) reserveExporter() error {
	if d.has.redisExporter == "" {
		return nil
	}
	reserved, at, err := serve(0, nil)
	if err != nil {
		return err
	}
	d.exporter = at
	return reserved.Close() // the exporter takes it next
}

func (d *deployment) redisExporter() part {
	return part{name: "redis exporter", ready: d.exporter.url() + "/health", env: []string{"REDIS_ADDR=" + d.redisURL},
		command: []string{d.has.redisExporter, "-web.listen-address=" + d.exporter.address()}}
}

// scrape writes the target, if there is one, where prometheus.yml looks for such: a target that cannot exist would look
// like a fault.
func (d *deployment) scrape(home string) error {
	if d.has.redisExporter == "" {
		return nil
	}
	folder := filepath.Join(home, "scrape")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	targets := fmt.Sprintf("scrape_configs:\n  - job_name: redis\n    static_configs:\n      - targets: [%q]\n",
		d.exporter.address())
	return os.WriteFile(filepath.Join(folder, "local.yml"), []byte(targets), 0o600)
}
