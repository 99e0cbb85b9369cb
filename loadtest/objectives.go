// Package loadtest tells Go what the load scripts hold the deployment to, so that the rules, the dashboards and the
// table of claims can be held to the same numbers. It has no other copy of them. A promise without a number or a unit
// is an error.
package loadtest

import (
	_ "embed"
	"encoding/json"
	"fmt"
)

//go:embed lib/objectives.json
var objectives []byte

// Objectives returns the numbers of lib/objectives.json by name, in the units that the file gives them.
func Objectives() (map[string]float64, error) { return read(objectives) }

func read(objectives []byte) (map[string]float64, error) {
	var file map[string]struct {
		Promise, Unit string
		Number        *float64
	}
	if err := json.Unmarshal(objectives, &file); err != nil {
		return nil, fmt.Errorf("objectives.json: %w", err)
	}
	numbers := map[string]float64{}
	for name, o := range file {
		if o.Promise == "" || o.Unit == "" || o.Number == nil {
			return nil, fmt.Errorf("objectives.json: %s needs a promise, a number and a unit", name)
		}
		numbers[name] = *o.Number
	}
	return numbers, nil
}
