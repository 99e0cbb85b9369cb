package main

import (
	"fmt"
	"strconv"
)

// addresses are where the parts answer: on 127.0.0.1, and by default at the ports that compose publishes.
type addresses struct {
	door, prometheus, graph, grafana place
	replicas, admins                 [3]place // admins are the replicas' ADMIN_ADDR

	// The shared configuration files fix these.
	collector, collectorGRPC, collectorHealth place
	tempo, tempoGRPC, tempoIn                 place
	loki, lokiGRPC                            place
}

// choose takes the front door's port from the flag and the others from the environment.
func choose(door int, getenv func(string) string) (addresses, error) {
	a := addresses{
		door:       place{door, "the front door", "-port N"},
		prometheus: place{9090, "Prometheus", "PROMETHEUS_PORT=N"},
		graph:      place{5665, "the moving graph", "GRAPH_PORT=N"},
		grafana:    place{3000, "Grafana", "GRAFANA_PORT=N"},

		collector:       place{port: 4318, part: "the collector (otelcol-contrib)"},
		collectorGRPC:   place{port: 4317, part: "the collector (otelcol-contrib)"},
		collectorHealth: place{port: 13133, part: "the collector (otelcol-contrib)"},
		tempo:           place{port: 3200, part: "Tempo (tempo)"},
		tempoGRPC:       place{port: 9096, part: "Tempo (tempo)"},
		tempoIn:         place{port: 14317, part: "Tempo (tempo)"},
		loki:            place{port: 3100, part: "Loki (loki)"},
		lokiGRPC:        place{port: 9095, part: "Loki (loki)"},
	}
	for i := range a.replicas {
		a.replicas[i] = place{door + 1 + i, fmt.Sprintf("replica %d, next to the front door", i+1), "-port N"}
		a.admins[i] = place{door + 11 + i, fmt.Sprintf("the probes of replica %d", i+1), "-port N"}
	}
	for variable, p := range map[string]*place{
		"PROMETHEUS_PORT": &a.prometheus, "GRAPH_PORT": &a.graph, "GRAFANA_PORT": &a.grafana,
	} {
		if value := getenv(variable); value != "" {
			port, err := strconv.Atoi(value)
			if err != nil {
				return addresses{}, fmt.Errorf("%s=%s is not a port", variable, value)
			}
			p.port = port
		}
	}
	return a, nil
}

// wanted are the places that this machine's deployment will take.
func (a addresses) wanted(has installed) []place {
	places := append([]place{a.door, a.prometheus, a.graph}, a.replicas[:]...)
	places = append(places, a.admins[:]...)
	if has.collector {
		places = append(places, a.collector, a.collectorGRPC, a.collectorHealth)
	}
	if has.tempo {
		places = append(places, a.tempo, a.tempoGRPC, a.tempoIn)
	}
	if has.loki {
		places = append(places, a.loki, a.lokiGRPC)
	}
	if has.grafana {
		places = append(places, a.grafana)
	}
	return places
}
