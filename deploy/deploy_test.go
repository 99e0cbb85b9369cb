// Package deploy_test holds the deployment's files to what this repository promises about them. That each is valid is
// for the program to say that reads it; ./deploy/local/test asks those.
package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
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
	ReadOnly    bool     `yaml:"read_only"`
	CapDrop     []string `yaml:"cap_drop"`
	MemLimit    string   `yaml:"mem_limit"`
	Logging     struct{ Options map[string]string }
}

func TestContainersAreBounded(t *testing.T) {
	var compose struct{ Services map[string]container }
	parse(t, "docker-compose.yml", &compose)
	require.NotEmpty(t, compose.Services)

	for name, c := range compose.Services {
		t.Run(name, func(t *testing.T) {
			require.True(t, c.Build != nil || strings.HasPrefix(c.Image, "${"), "image tags stand in .env")
			require.True(t, c.ReadOnly, "read_only")
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
