// Package rules reads the rules that Prometheus evaluates, so that what they name can be held to what there is. It
// reads what the tests need and nothing else: whether a rule is valid is for promtool to say.
package rules

import (
	"embed"
	"fmt"
	"io/fs"

	"gopkg.in/yaml.v3"
)

//go:embed *.yml
var files embed.FS

// Rule is one of Prometheus's: an alert, or a series that is computed from others and recorded.
type Rule struct {
	Alert, Record, Expr string
	Labels, Annotations map[string]string
}

// All returns them in the order of the files.
func All() ([]Rule, error) {
	paths, err := fs.Glob(files, "*.yml")
	if err != nil {
		return nil, err
	}
	var all []Rule
	for _, path := range paths {
		content, err := files.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var file struct {
			Groups []struct{ Rules []Rule }
		}
		if err := yaml.Unmarshal(content, &file); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, group := range file.Groups {
			all = append(all, group.Rules...)
		}
	}
	return all, nil
}
