package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// counted asks Prometheus for the sum of a counter over all replicas: 0 where nobody has counted yet. It is as old as
// the replicas' last export, some seconds.
func (d *deployment) counted(ctx context.Context, series string) (float64, error) {
	query := url.Values{"query": {"sum(" + series + ") or vector(0)"}}
	address := d.at.prometheus.url() + "/api/v1/query?" + query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	var found struct {
		Error string
		Data  struct {
			Result []struct{ Value [2]any } // a time, and the number in quotes
		}
	}
	if err := json.NewDecoder(answer.Body).Decode(&found); err != nil {
		return 0, fmt.Errorf("prometheus: %s: %w", series, err)
	}
	if len(found.Data.Result) != 1 {
		return 0, fmt.Errorf("prometheus: %s: %s %s", series, answer.Status, found.Error)
	}
	number, _ := found.Data.Result[0].Value[1].(string)
	return strconv.ParseFloat(number, 64)
}
