package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel"

	"nervous/app/redisurl"
)

const (
	// minRedis is the oldest Redis that compiles the scripts: they begin with #!lua.
	minRedis = "7.0"
	// startCheck bounds how long a Redis that does not answer can hold up a start.
	startCheck = 2 * time.Second
	// laterCheck is how often a Redis that was away at the start is asked again.
	laterCheck = time.Second
)

// redisCheck finds out whether the server behind REDIS_URL can be used at all: one that is too old, or that runs in
// another way than the URL says, refuses every call, and the service would silently go without Redis for ever.
type redisCheck struct {
	rdb     redis.UniversalClient
	address redisurl.Address
}

func newRedisCheck(rdb redis.UniversalClient, r redisStore) (redisCheck, error) {
	address, err := redisurl.Parse(r.URL)
	return redisCheck{rdb, address}, err
}

// atStart returns an error if the server answers and cannot be used. A Redis that is away at the start is like one that
// goes away later: it is no error, and answered is false.
func (c redisCheck) atStart(ctx context.Context) (answered bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, startCheck)
	defer cancel()
	err = c.ask(ctx)
	if _, wrong := errors.AsType[*wrongServerError](err); wrong {
		return true, err
	}
	if err != nil {
		slog.WarnContext(ctx, "Redis does not answer yet: the service starts without it", "redis", c.address.String(),
			"error", err)
	}
	return err == nil, nil
}

// later asks until Redis answers or the context ends. A server that cannot be used is logged then: the service works
// without it, slower.
func (c redisCheck) later(ctx context.Context) {
	again := time.NewTicker(laterCheck)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		bounded, cancel := context.WithTimeout(ctx, startCheck)
		err := c.ask(bounded)
		cancel()
		if _, wrong := errors.AsType[*wrongServerError](err); wrong {
			slog.ErrorContext(ctx, "Redis answers now and cannot be used: the service goes on without it", "error", err)
			return
		}
		if err == nil {
			slog.InfoContext(ctx, "Redis answers now", "redis", c.address.String())
			return
		}
	}
}

// ask asks each server that has a part of the data. A server that does not permit INFO is taken as it is.
func (c redisCheck) ask(ctx context.Context) (err error) {
	ctx, span := otel.Tracer("nervous/app").Start(ctx, "check redis")
	defer span.End()
	if cluster, ok := c.rdb.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
			return c.judge(master.Info(ctx, "server"))
		})
	} else {
		err = c.judge(c.rdb.Info(ctx, "server"))
	}
	switch {
	case redis.HasErrorPrefix(err, "NOPERM"):
		slog.WarnContext(ctx, "Redis does not permit INFO to this user: its version, which must be at least "+minRedis+
			", is not checked", "redis", c.address.String(), "error", err)
		return nil
	case err != nil && strings.Contains(err.Error(), "cluster support disabled"):
		return &wrongServerError{c.address, "it is no Cluster (ERR This instance has cluster support disabled)",
			"one server is " + c.as("redis", "")}
	}
	return err
}

func (c redisCheck) judge(answer *redis.StringCmd) error {
	info, err := answer.Result()
	if err != nil {
		return err
	}
	return c.verdict(info)
}

// verdict reads the answer to INFO.
func (c redisCheck) verdict(info string) error {
	facts := map[string]string{}
	for line := range strings.Lines(info) {
		if name, value, found := strings.Cut(strings.TrimSpace(line), ":"); found {
			facts[name] = value
		}
	}
	clustered := facts["redis_mode"] == "cluster" || facts["cluster_enabled"] == "1"
	switch version := facts["redis_version"]; {
	case facts["redis_mode"] == "sentinel":
		return &wrongServerError{c.address, "it is a Sentinel (redis_mode:sentinel)",
			"the master that it watches is " + c.as("redis+sentinel", "?master_name=NAME")}
	case facts["valkey_version"] == "" && older(version, minRedis):
		return &wrongServerError{c.address, "it is too old (redis_version:" + version + ")",
			"use at least Redis " + minRedis + ", or Valkey"}
	case clustered && c.address.Cluster == nil:
		return &wrongServerError{c.address, "it is a node of a Redis Cluster (cluster_enabled:1)",
			"the Cluster is " + c.as("redis+cluster", "")}
	}
	return nil
}

// as is the address in another form.
func (c redisCheck) as(scheme, parameters string) string {
	had, rest, _ := strings.Cut(c.address.String(), "://")
	host, _, _ := strings.Cut(rest, "/")
	if strings.HasPrefix(had, "rediss") {
		scheme = strings.Replace(scheme, "redis", "rediss", 1)
	}
	if had == "unix" {
		host = "HOST:PORT"
	}
	return "REDIS_URL=" + scheme + "://" + host + parameters
}

// older compares versions like 6.2.14 by their first two numbers. A version that cannot be read is not older.
func older(version, than string) bool {
	major, minor, ok := numbers(version)
	leastMajor, leastMinor, _ := numbers(than)
	return ok && (major < leastMajor || major == leastMajor && minor < leastMinor)
}

func numbers(version string) (major, minor int, ok bool) {
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	major, fault1 := strconv.Atoi(first)
	minor, fault2 := strconv.Atoi(second)
	return major, minor, errors.Join(fault1, fault2) == nil
}

// wrongServerError is a server that answers and cannot be used.
type wrongServerError struct {
	address     redisurl.Address
	found, mend string
}

func (e *wrongServerError) Error() string {
	return fmt.Sprintf("the server of REDIS_URL %s cannot be used: %s; %s", e.address, e.found, e.mend)
}
