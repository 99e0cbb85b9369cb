package dashboards_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// leftovers are what Grafana adds when it exports: true of the server that the dashboard came from, and of no other.
var leftovers = []string{
	"__inputs", "__requires", "__elements", "gnetId", "id", "iteration", "pluginVersion", "version",
}

// There is one way to write a dashboard down, that of `jq .`, so that a difference between two versions is one that can
// be seen on the screen.
func TestDashboardsAreCanonical(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("*.json")
	require.NoError(t, err)
	for _, path := range paths {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			var canonical bytes.Buffer
			require.NoError(t, json.Indent(&canonical, content, "", "  "))
			require.True(t, bytes.Equal(canonical.Bytes(), content), "write it with `jq . %s`", path)

			var top map[string]any
			require.NoError(t, json.Unmarshal(content, &top))
			for _, key := range leftovers {
				require.NotContains(t, top, key)
			}
			panels, ok := top["panels"].([]any)
			require.True(t, ok)
			for _, p := range panels {
				require.NotContains(t, p, "pluginVersion")
			}
		})
	}
}

// Panels stand in the file as they stand on the screen, row by row.
func TestPanelsAreInReadingOrder(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, d dashboard) {
		for i, p := range d.Panels[1:] {
			before := d.Panels[i].GridPos
			require.True(t, p.GridPos.Y > before.Y || p.GridPos.Y == before.Y && p.GridPos.X > before.X,
				"%q stands after %q", p.Title, d.Panels[i].Title)
		}
	})
}
