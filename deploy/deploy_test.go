// Package deploy_test holds the deployment's files to what this repository promises about them. That each is valid is
// for the program to say that reads it; ./deploy/local/test asks those.
package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// The tests run in this folder; docker-compose.yml and otel-collector.yaml are one above.
const root = ".."

type container struct {
	Image       string
	Build       any
	Environment map[string]string
	Ports       []string
	Networks    []string
	Tmpfs       []string
	DependsOn   map[string]any `yaml:"depends_on"`
	Profiles    []string
	PullPolicy  string   `yaml:"pull_policy"`
	PidsLimit   int      `yaml:"pids_limit"`
	ReadOnly    bool     `yaml:"read_only"`
	CapDrop     []string `yaml:"cap_drop"`
	MemLimit    string   `yaml:"mem_limit"`
	Logging     struct{ Options map[string]string }
}

// ours is the image that is built here.
const ours = "nervous"

// compose reads docker-compose.yml.
func compose(t *testing.T) (file struct {
	Services map[string]container
	Networks map[string]struct{ Internal bool }
},
) {
	t.Helper()
	parse(t, "docker-compose.yml", &file)
	require.NotEmpty(t, file.Services)
	return file
}

// Services that build the same tag do so at the same time, and one of them may fail. So one builds, and the others take
// what it has built, and never ask a registry for it.
func TestCompose_ImageIsBuiltOnce(t *testing.T) {
	var builders []string
	for name, c := range compose(t).Services {
		switch {
		case c.Build != nil:
			builders = append(builders, name)
			require.Equal(t, ours, c.Image)
		case c.Image == ours:
			require.Equal(t, "never", c.PullPolicy, name)
		}
	}
	require.Equal(t, []string{"app"}, builders)
}

// Only what asks the stores reaches them, and they reach nothing. The front door reaches the replicas and nothing else.
func TestCompose_NetworksAreApart(t *testing.T) {
	file := compose(t)
	require.True(t, file.Networks["stores"].Internal)
	onThe := map[string][]string{}
	for name, c := range file.Services {
		for _, network := range c.Networks {
			onThe[network] = append(onThe[network], name)
		}
	}
	require.ElementsMatch(t, []string{"caddy", "app", "k6"}, onThe["front"])
	require.ElementsMatch(t, []string{
		"app", "postgres", "redis", "migrate", "seed", "audit", "redis-exporter", "postgres-exporter",
	}, onThe["stores"])
	require.ElementsMatch(t, []string{
		"app", "k6", "otel-collector", "prometheus", "tempo", "loki", "grafana", "redis-exporter", "postgres-exporter",
	}, onThe["telemetry"])
	require.Len(t, file.Services["audit"].Networks, 1, "in two, each replica has two addresses and counts twice")
	for name, c := range file.Services {
		for other := range c.DependsOn {
			require.True(t, slices.ContainsFunc(c.Networks, func(n string) bool {
				return slices.Contains(file.Services[other].Networks, n)
			}), "%s waits for %s and cannot reach it", name, other)
		}
	}
}

// Probes are not published, and a demo is called one.
func TestCompose_App(t *testing.T) {
	app := compose(t).Services["app"]
	require.Empty(t, app.Ports)
	require.Equal(t, ":8091", app.Environment["ADMIN_ADDR"])
	require.Equal(t, "true", app.Environment["DEMO"])
	require.NotContains(t, app.Environment, "ALLOW_STRATEGY_OVERRIDE")
}

// Grafana and Loki write and delete where they are allowed to, and Grafana starts nothing that is not used.
func TestCompose_GrafanaAndLoki(t *testing.T) {
	services := compose(t).Services
	require.Contains(t, services["loki"].Tmpfs, "/tmp", "the compactor marks there what it deletes")
	var loki struct {
		Limits struct {
			OTLP struct {
				Resource struct {
					IgnoreDefaults bool `yaml:"ignore_defaults"`
					Attributes     []struct {
						Action     string
						Attributes []string
					} `yaml:"attributes_config"`
				} `yaml:"resource_attributes"`
			} `yaml:"otlp_config"`
		} `yaml:"limits_config"`
	}
	parse(t, "deploy/loki.yaml", &loki)
	require.True(t, loki.Limits.OTLP.Resource.IgnoreDefaults)
	require.Len(t, loki.Limits.OTLP.Resource.Attributes, 1)
	require.Equal(t, "index_label", loki.Limits.OTLP.Resource.Attributes[0].Action)
	require.Equal(t, []string{"service.name"}, loki.Limits.OTLP.Resource.Attributes[0].Attributes)

	grafana := services["grafana"].Environment
	require.Equal(t, "${GRAFANA_ADMIN_PASSWORD}", grafana["GF_SECURITY_ADMIN_PASSWORD"])
	require.Equal(t, "false", grafana["GF_PLUGINS_PREINSTALL_AUTO_UPDATE"])
	require.Equal(t, "false", grafana["GF_SERVER_ENABLE_GZIP"])
	disabled := strings.Split(grafana["GF_PLUGINS_DISABLE_PLUGINS"], ",")
	require.Contains(t, disabled, "elasticsearch")
	for _, used := range []string{"prometheus", "tempo", "loki"} {
		require.NotContains(t, disabled, used)
	}
}

func TestContainersAreBounded(t *testing.T) {
	compose := compose(t)

	for name, c := range compose.Services {
		t.Run(name, func(t *testing.T) {
			require.True(t, c.Image == ours || strings.HasPrefix(c.Image, "${"), "image tags stand in .env")
			require.True(t, c.ReadOnly, "read_only")
			require.Positive(t, c.PidsLimit, "pids_limit")
			require.NotEmpty(t, c.Networks, "the default network would join all")
			require.Equal(t, []string{"ALL"}, c.CapDrop, "cap_drop")
			require.Contains(t, c.Logging.Options, "max-size", "a log without an end fills the disk")
			for _, port := range c.Ports {
				require.True(t, strings.HasPrefix(port, "127.0.0.1:"), "%s is open to the network", port)
			}
			limit := mebibytes(t, c.MemLimit)
			if soft, isGo := c.Environment["GOMEMLIMIT"]; isGo {
				require.InDelta(t, 0.8*limit, mebibytes(t, soft), 2,
					"GOMEMLIMIT is 80 %% of mem_limit: the collector of garbage must work before the kernel kills")
			}
		})
	}
}

// mebibytes reads compose's `256m` and Go's `205MiB`.
func mebibytes(t *testing.T, size string) float64 {
	for suffix, factor := range map[string]float64{"MiB": 1, "m": 1, "g": 1024} {
		if number, ok := strings.CutSuffix(size, suffix); ok {
			n, err := strconv.ParseFloat(number, 64)
			require.NoError(t, err)
			return n * factor
		}
	}
	require.Fail(t, fmt.Sprintf("%q is no size in MiB", size))
	return 0
}

// files lists what matches, as paths from the root.
func files(t *testing.T, pattern string) []string {
	matches, err := filepath.Glob(filepath.Join(root, pattern))
	require.NoError(t, err)
	require.NotEmpty(t, matches, pattern)
	for i, match := range matches {
		matches[i], err = filepath.Rel(root, match)
		require.NoError(t, err)
	}
	return matches
}

func parse(t *testing.T, path string, into any) {
	content, err := os.ReadFile(filepath.Join(root, path))
	require.NoError(t, err)
	require.NoErrorf(t, yaml.Unmarshal(content, into), path)
}
