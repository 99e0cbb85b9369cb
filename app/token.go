package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"nervous/app/identity"
)

// runToken prints a bearer token and nothing else, so that a shell can put it into a header:
//
//	curl -X POST -H "Authorization: Bearer $(app token -user 42 -scope reconcile)" localhost:8080/reconcile
func runToken(_ context.Context, p program, args []string) error {
	flags := flag.NewFlagSet("token", flag.ContinueOnError)
	flags.SetOutput(p.stderr)
	user := flags.String("user", "", "`id` of the caller")
	scope := flags.String("scope", "", "`words`, separated by spaces, that say what the caller may do (reconcile)")
	lifetime := flags.Duration("ttl", time.Hour, "how long the token is valid")
	if flags.Parse(args) != nil {
		return errUsage
	}
	c, err := loadTokenConfig(p.getenv)
	if err != nil {
		return err
	}
	token, err := identity.New(c.Secret).Mint(identity.Caller{User: *user, Scopes: strings.Fields(*scope)}, *lifetime)
	if flags.NArg() > 0 {
		err = errors.Join(err, fmt.Errorf("a token has no use for %q", flags.Args()))
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "app: no token was minted:%s\n\n", strings.ReplaceAll("\n"+err.Error(), "\n", "\n  - "))
		flags.Usage()
		return errUsage
	}
	_, err = fmt.Fprintln(p.stdout, token)
	return err
}
