// Package redisurl reads where Redis is from one URL, for every way in which Redis runs:
//
//	redis://user:password@host:6379/0                          one server
//	rediss://user:password@host:6379/0                         one server, with TLS
//	unix:///run/redis.sock?db=0                                one server, on a Unix socket
//	redis+sentinel://host:26379/0?master_name=m&addr=host2     the master that the Sentinels name
//	redis+cluster://host:6379?addr=host2:6379                  a Cluster
//
// rediss+sentinel and rediss+cluster use TLS; skip_verify=true accepts any certificate. The query takes what go-redis's
// own parsers take, as in pool_size=20. A port that is missing is 26379 for a Sentinel, else 6379. With Sentinel, user
// and password before the host are for the Sentinels; those for Redis are the parameters username and password, as
// go-redis has it.
package redisurl

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Forms are the URLs that Parse accepts, for error messages.
const Forms = "redis://[user:password@]host:port/db, rediss://... with TLS, unix:///path?db=0, " +
	"redis+sentinel://host:port/db?master_name=name&addr=host2:port2, redis+cluster://host:port?addr=host2:port2, " +
	"and rediss+sentinel or rediss+cluster with TLS"

// Address says where Redis is. Exactly one of the options is set; they are the caller's to change.
type Address struct {
	Server   *redis.Options
	Sentinel *redis.FailoverOptions
	Cluster  *redis.ClusterOptions

	shown string
}

// String is the URL without user, password and parameters.
func (a Address) String() string { return a.shown }

// Client returns a new client with the options as they are now.
func (a Address) Client() redis.UniversalClient {
	switch {
	case a.Cluster != nil:
		return redis.NewClusterClient(a.Cluster)
	case a.Sentinel != nil:
		return redis.NewFailoverClient(a.Sentinel)
	}
	return redis.NewClient(a.Server)
}

// Parse reads a URL. Its error says what is wrong and which forms are accepted. It never holds the user, the password,
// or a part of the URL that may belong to them.
func Parse(text string) (Address, error) {
	u, err := url.Parse(text)
	if err != nil { // whose text quotes the URL
		return Address{}, refused(errors.New("it is no valid URL; special characters in a user or a password must be " +
			"percent-encoded, as in %2F for /"))
	}
	a := Address{shown: shown(u)}
	scheme, kind, _ := strings.Cut(u.Scheme, "+")
	switch {
	case u.Opaque != "", scheme != "unix" && !strings.Contains(text, "://"): // what is before a colon may be anything
		return Address{}, refused(errors.New("it does not begin with a scheme and //"))
	case kind == "" && (scheme == "redis" || scheme == "rediss" || scheme == "unix"):
		a.Server, err = redis.ParseURL(text)
	case kind == "sentinel" && (scheme == "redis" || scheme == "rediss"):
		a.Sentinel, err = parseSentinel(rewritten(u, scheme, "26379"))
	case kind == "cluster" && (scheme == "redis" || scheme == "rediss"):
		a.Cluster, err = parseCluster(rewritten(u, scheme, "6379"))
	default:
		return Address{}, refused(fmt.Errorf("there is no scheme %q", u.Scheme))
	}
	if err != nil {
		return Address{}, refused(harmless(err, text, u))
	}
	return a, nil
}

func refused(reason error) error { return fmt.Errorf("%w; accepted are %s", reason, Forms) }

// harmless is what go-redis says of the URL, which quotes parts of the path and of the query. Where a part of the
// password may have got there, because a character of it was not encoded, only a general reason is given.
func harmless(err error, text string, u *url.URL) error {
	secrets := strings.Count(text, "@")
	if secrets == 1 && u.User != nil {
		secrets = 0
	}
	if q := u.Query(); secrets > 0 || q.Has("password") || q.Has("username") {
		return errors.New("a part of it is not understood, which is not shown, because it may belong to the password; " +
			"special characters in a user or a password must be percent-encoded, as in %2F for /")
	}
	return errors.New(strings.TrimPrefix(err.Error(), "redis: "))
}

func shown(u *url.URL) string {
	bare := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	return bare.String()
}

// rewritten is the URL as go-redis's parsers have it: with the plain scheme, and a port everywhere.
func rewritten(u *url.URL, scheme, port string) *url.URL {
	plain := *u
	plain.Scheme = scheme
	if plain.Port() == "" && plain.Host != "" {
		plain.Host = net.JoinHostPort(plain.Hostname(), port)
	}
	query := plain.Query()
	for i, addr := range query["addr"] {
		if _, _, err := net.SplitHostPort(addr); err != nil && addr != "" {
			query["addr"][i] = net.JoinHostPort(strings.Trim(addr, "[]"), port)
		}
	}
	plain.RawQuery = query.Encode()
	return &plain
}

var errReplicas = errors.New("reads from replicas are not supported, because these may be behind: leave out " +
	"read_only, replica_only, route_by_latency and route_randomly")

func parseSentinel(u *url.URL) (*redis.FailoverOptions, error) {
	o, err := redis.ParseFailoverURL(u.String())
	switch {
	case err != nil:
		return nil, err
	case o.MasterName == "":
		return nil, errors.New("the parameter master_name, which the Sentinels know the master by, is missing")
	case o.ReplicaOnly || o.RouteByLatency || o.RouteRandomly:
		return nil, errReplicas
	}
	return o, nil
}

func parseCluster(u *url.URL) (*redis.ClusterOptions, error) {
	if db := strings.Trim(u.Path, "/"); db != "" && db != "0" {
		return nil, errors.New("a Cluster has database 0 only: leave out the path")
	}
	query := u.Query()
	skip, mistyped := strconv.ParseBool(cmp.Or(query.Get("skip_verify"), "false"))
	query.Del("skip_verify") // which go-redis knows for its other clients only
	u.RawQuery = query.Encode()
	o, err := redis.ParseClusterURL(u.String())
	switch {
	case err != nil:
		return nil, err
	case mistyped != nil || skip && o.TLSConfig == nil:
		return nil, errors.New("the parameter skip_verify is true or false, and for rediss+cluster")
	case skip:
		o.TLSConfig.InsecureSkipVerify = true
	}
	switch {
	case o.ReadOnly || o.RouteByLatency || o.RouteRandomly:
		return nil, errReplicas
	}
	return o, nil
}
