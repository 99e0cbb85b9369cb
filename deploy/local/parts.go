package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The parts, one function each: what docker-compose.yml says of them in its own way. The configuration files are the
// same ones; only addresses and folders differ, and come from the environment.

// The settings of Postgres, Redis, Prometheus and k6 stand in docker-compose.yml with their reasons; a test holds these
// to them. What neither says stays as it is: fsync and synchronous commit are on, or the round-trips that this project
// saves would look cheaper than they are.
var (
	postgresSettings = map[string]string{
		"shared_preload_libraries": "pg_stat_statements", "max_connections": "100", "shared_buffers": "256MB",
		"max_parallel_workers_per_gather": "0", "max_wal_size": "4GB",
	}
	redisSettings = map[string]string{
		"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory": "256mb", "maxmemory-policy": "volatile-lru",
	}
	prometheusFlags = []string{
		"--storage.tsdb.retention.time=24h", "--web.enable-otlp-receiver", "--web.enable-remote-write-receiver",
		"--enable-feature=exemplar-storage,created-timestamp-zero-ingestion", "--query.lookback-delta=30s",
	}
	k6Settings = map[string]string{
		"K6_OTEL_EXPORTER_PROTOCOL": "http/protobuf", "K6_OTEL_HTTP_EXPORTER_INSECURE": "true",
		"K6_OTEL_METRIC_PREFIX": "k6_", "K6_OTEL_EXPORT_INTERVAL": "2s",
		"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram",
		"OTEL_GO_X_PER_SERIES_START_TIMESTAMPS":                    "true",
		"K6_NO_USAGE_REPORT":                                       "true",
	}
)

func (d *deployment) prometheus() (part, error) {
	// A copy without scrape/, whose targets are compose's.
	home := filepath.Join(d.dir, "prometheus")
	if err := os.CopyFS(filepath.Join(home, "rules"), os.DirFS(d.path("deploy/prometheus/rules"))); err != nil {
		return part{}, fmt.Errorf("prometheus: %w", err)
	}
	config, err := os.ReadFile(d.path("deploy/prometheus/prometheus.yml"))
	if err != nil {
		return part{}, fmt.Errorf("prometheus: %w", err)
	}
	if err := os.WriteFile(filepath.Join(home, "prometheus.yml"), config, 0o600); err != nil {
		return part{}, fmt.Errorf("prometheus: %w", err)
	}
	if err := d.scrape(home); err != nil {
		return part{}, fmt.Errorf("prometheus: %w", err)
	}
	return part{name: "prometheus", ready: d.at.prometheus.url() + "/-/ready", command: append([]string{
		"prometheus", "--config.file=" + filepath.Join(home, "prometheus.yml"),
		"--storage.tsdb.path=" + filepath.Join(home, "data"), "--web.listen-address=" + d.at.prometheus.address(),
	}, prometheusFlags...)}, nil
}

// Nobody waits for Tempo, Loki and Grafana: requests do without them, and they call themselves ready many seconds after
// they are.

func (d *deployment) tempo() part {
	return part{name: "tempo", env: d.endpoints(), command: []string{
		"tempo", "-config.file=" + d.path("deploy/tempo.yaml"), "-config.expand-env=true",
	}}
}

func (d *deployment) loki() part {
	return part{name: "loki", env: d.endpoints(), command: []string{
		"loki", "-config.file=" + d.path("deploy/loki.yaml"), "-config.expand-env=true",
	}}
}

func (d *deployment) collector() part {
	command := []string{"otelcol-contrib", "--config=" + d.path("otel-collector.yaml")}
	if !d.has.tempo {
		// Traces are measured and sampled all the same; only nobody takes them.
		command = append(command, "--config=yaml:service::pipelines::traces/sampled::exporters: [span_metrics/kept]")
	}
	return part{name: "otelcol-contrib", ready: d.at.collectorHealth.url(), env: d.endpoints(), command: command}
}

func (d *deployment) grafana() part {
	data := filepath.Join(d.dir, "grafana")
	return part{name: "grafana", command: []string{
		"grafana", "server", "--homepath", d.has.grafanaHome,
	}, env: append(d.endpoints(),
		"GF_SERVER_HTTP_ADDR=127.0.0.1", fmt.Sprintf("GF_SERVER_HTTP_PORT=%d", d.at.grafana.port),
		"GF_PATHS_DATA="+data, "GF_PATHS_LOGS="+data, "GF_PATHS_PLUGINS="+filepath.Join(data, "plugins"),
		"GF_PATHS_PROVISIONING="+d.path("deploy/grafana/provisioning"), "DASHBOARDS="+d.path("dashboards"),
		"GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH="+d.path("dashboards/overview.json"),
		"GF_AUTH_ANONYMOUS_ENABLED=true", "GF_AUTH_ANONYMOUS_ORG_ROLE=Viewer", "GF_USERS_VIEWERS_CAN_EDIT=true",
		"GF_PLUGINS_PREINSTALL_DISABLED=true", "GF_PLUGINS_PREINSTALL_AUTO_UPDATE=false", "GF_SERVER_ENABLE_GZIP=false",
		"GF_ANALYTICS_REPORTING_ENABLED=false",
		"GF_ANALYTICS_CHECK_FOR_UPDATES=false", "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES=false",
	)}
}

// app is one of the binary's one-shot commands. It talks to the person: seeding shows how far it is.
func (d *deployment) app(arguments ...string) part {
	return part{name: "app " + arguments[0], output: os.Stdout, env: []string{"DATABASE_URL=" + d.databaseURL},
		command: append([]string{d.path("app/app")}, arguments...)}
}

// tokenSecret is the published one of .env. It opens no door but those on this machine.
const tokenSecret = "demo-secret-for-127.0.0.1-only--never-use-elsewhere"

// metrics is where metrics go: straight to Prometheus, unless there is a collector.
func (d *deployment) metrics() string {
	if d.has.collector {
		return d.at.collector.url() + "/v1/metrics"
	}
	return d.at.prometheus.url() + "/api/v1/otlp/v1/metrics"
}

func (d *deployment) replica(i int) part {
	name := fmt.Sprintf("app-%d", i+1)
	logs := "OTEL_LOGS_EXPORTER=none"
	if d.has.collector && d.has.loki {
		logs = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=" + d.at.collector.url() + "/v1/logs"
	}
	return part{name: name, ready: d.at.admins[i].url() + "/readyz", command: []string{d.path("app/app"), "serve"},
		env: []string{
			"LISTEN_ADDR=" + d.at.replicas[i].address(), "ADMIN_ADDR=" + d.at.admins[i].address(), "REPLICA_ID=" + name,
			"DATABASE_URL=" + d.databaseURL, "REDIS_URL=" + d.redisURL, "TRENDING_LEASE=" + leaseTime.String(),
			// The demonstration: a caller may ask for a naive strategy and see what it costs.
			"DEMO=true", "TOKEN_SECRET=" + tokenSecret,
			// Caddy writes the caller's address to X-Forwarded-For. Unread, all callers without a token share Caddy's limit.
			"TRUSTED_PROXIES=127.0.0.0/8,::1/128", "TRUSTED_HOPS=1",
			// Everything shares these cores: a Redis that is only busy must not pass for one that is down.
			"RATELIMIT_BUDGET=250ms",
			// A run by the clock would do the load script's work; and this table is small enough to be counted all the time.
			"RECONCILE_EVERY=0", "RECONCILE_COUNT_EVERY=5s",
			"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=" + d.receiver.url() + "/v1/traces",
			"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=" + d.metrics(), logs,
			// At the usual intervals a spike would be over before its first point and its first trace are there.
			"OTEL_METRIC_EXPORT_INTERVAL=5000", "OTEL_BSP_SCHEDULE_DELAY=1000",
			// Lost spans become a metric instead of a gap, and a counter says when it was born, so that its first event counts.
			"OTEL_GO_X_OBSERVABILITY=true", "OTEL_GO_X_PER_SERIES_START_TIMESTAMPS=true",
		}}
}

func (d *deployment) frontDoor() part {
	var upstreams []string
	for _, replica := range d.at.replicas {
		upstreams = append(upstreams, replica.address())
	}
	return part{name: "caddy", ready: d.at.door.url() + "/readyz", command: []string{
		"caddy", "run", "--adapter=caddyfile", "--config=" + d.path("deploy/Caddyfile"),
	}, env: []string{
		fmt.Sprintf("LISTEN=:%d", d.at.door.port), "BIND=127.0.0.1",
		"UPSTREAMS_FROM=local", "UPSTREAMS=" + strings.Join(upstreams, " "),
		"XDG_CONFIG_HOME=" + d.dir, "XDG_DATA_HOME=" + d.dir,
	}}
}

// loadScript is k6 with a script of loadtest/. Its metrics go where the replicas' go.
func (d *deployment) loadScript(name, script, results string) part {
	env := []string{"BASE_URL=" + d.at.door.url(), "TOKEN_SECRET=" + tokenSecret, "RESULTS=" + results}
	for name, value := range k6Settings {
		env = append(env, name+"="+value)
	}
	if d.has.collector {
		env = append(env, "K6_OTEL_HTTP_EXPORTER_ENDPOINT="+d.at.collector.address())
	} else {
		env = append(env, "K6_OTEL_HTTP_EXPORTER_ENDPOINT="+d.at.prometheus.address(),
			"K6_OTEL_HTTP_EXPORTER_URL_PATH=/api/v1/otlp/v1/metrics")
	}
	return part{name: name, command: []string{
		"k6", "run", "--quiet", "--address=127.0.0.1:0", "--out=opentelemetry", d.path("loadtest/" + script),
	}, env: env}
}

// drawn adds the moving graph. The script stays quiet, because its banner would name the dashboard's own address, and a
// browser there would keep it from ending.
func drawn(script part, report string, dashboard place) part {
	script.command = append(script.command, "--out=web-dashboard")
	script.env = append(script.env,
		"K6_WEB_DASHBOARD_HOST=127.0.0.1", fmt.Sprintf("K6_WEB_DASHBOARD_PORT=%d", dashboard.port),
		"K6_WEB_DASHBOARD_PERIOD=1s", "K6_WEB_DASHBOARD_EXPORT="+report,
	)
	return script
}

// endpoints tell the shared configuration files where things are when nothing has a name on a network.
func (d *deployment) endpoints() []string {
	return []string{
		"COLLECTOR_HOST=127.0.0.1", "TEMPO_HOST=127.0.0.1", "LOKI_HOST=127.0.0.1",
		"TEMPO_OTLP_LISTEN=" + d.at.tempoIn.address(), "TEMPO_OTLP_ENDPOINT=" + d.at.tempoIn.address(),
		"PROMETHEUS_URL=" + d.at.prometheus.url(), "LOKI_URL=" + d.at.loki.url(), "TEMPO_URL=" + d.at.tempo.url(),
		"TEMPO_DATA=" + filepath.Join(d.dir, "tempo"), "LOKI_DATA=" + filepath.Join(d.dir, "loki"),
	}
}
