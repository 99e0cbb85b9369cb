package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/tools/go/packages"
)

// Who of ours may import whom outside tests; what is not in the table may not. The mechanisms are leaves, so that each
// can be lifted into another service by copying one folder.
var allowed = map[string]struct {
	imports []string
	why     string
}{
	"cache":       {nil, "a mechanism: it knows go-redis and the OpenTelemetry API, and nothing of this service"},
	"buffer":      {nil, "a mechanism: it knows go-redis, pgx and the OpenTelemetry API, and nothing of this service"},
	"ratelimit":   {nil, "a mechanism: it knows go-redis and the OpenTelemetry API, and nothing of this service"},
	"identity":    {nil, "who calls is known from the token alone, whatever else is down"},
	"roundtrips":  {nil, "a word that everybody may use must not depend on anybody"},
	"migrations":  {[]string{"postgresurl"}, "the schema is SQL, and depends on no feature"},
	"seed":        {[]string{"postgresurl"}, "demo data depends on the schema, not on the code that reads it"},
	"trending":    {[]string{"cache", "roundtrips"}, "the feature shows how to use the mechanism"},
	"reconcile":   {[]string{"buffer", "roundtrips"}, "the feature shows how to use the mechanism"},
	"telemetry":   {[]string{"roundtrips"}, "it fills the tally; as only main imports it, only main has the SDK"},
	"redisurl":    {nil, "where Redis is depends on nothing but the URL"},
	"postgresurl": {nil, "where Postgres is depends on nothing but the connection string"},
	"audit": {
		[]string{"postgresurl", "redisurl", "roundtrips", "telemetry"}, "it compares telemetry with what servers counted",
	},
	"api": {
		[]string{"cache", "identity", "ratelimit", "reconcile", "roundtrips", "trending"},
		"it turns features and their accounts into HTTP",
	},
	"servicetest":      {[]string{"migrations"}, "a test's database has the schema; for tests and deploy/local only"},
	"servicetest/otlp": {nil, "what a service exports is for any test to read"},
	"servicetest/replica": {
		[]string{"servicetest"}, "a process that a test may kill must not outlive it; for tests only",
	},
	"": {
		[]string{
			"api", "audit", "buffer", "cache", "identity", "migrations", "postgresurl", "ratelimit", "reconcile",
			"redisurl", "roundtrips", "seed", "telemetry", "trending",
		},
		"main wires everything, and alone knows everybody",
	},
}

// Who may import what of others'.
var reserved = map[string]struct {
	by  []string
	why string
}{
	"go.opentelemetry.io/otel/sdk": {
		[]string{"telemetry", "servicetest/replica"},
		"a library that is instrumented by the API works under any SDK, or none; tests read what it said",
	},
	"github.com/golang-jwt/jwt": {
		[]string{"identity"}, "a token is believed in one place, which pins the algorithm",
	},
	"github.com/labstack/echo": {[]string{"api"}, "features do not know that they are asked over HTTP"},
}

const root = "nervous/app"

func TestArchitecture(t *testing.T) {
	t.Parallel()
	loaded, err := packages.Load(&packages.Config{Mode: packages.NeedName | packages.NeedImports, Dir: ".."}, "./app/...")
	require.NoError(t, err)
	require.NotEmpty(t, loaded)
	for _, p := range loaded {
		name := strings.TrimPrefix(strings.TrimPrefix(p.PkgPath, root), "/")
		rule, known := allowed[name]
		if !known {
			t.Errorf("app/%s is not in the table: what is it for, and whom may it import?", name)
			continue
		}
		for path := range p.Imports {
			if ours, ok := strings.CutPrefix(path, root+"/"); ok && !slices.Contains(rule.imports, ours) {
				t.Errorf("app/%s imports app/%s, and may import only %q: %s", name, ours, rule.imports, rule.why)
			}
			for prefix, r := range reserved {
				if strings.HasPrefix(path, prefix) && !slices.Contains(r.by, name) {
					t.Errorf("app/%s imports %s, which is for %q only: %s", name, path, r.by, r.why)
				}
			}
		}
	}
}
