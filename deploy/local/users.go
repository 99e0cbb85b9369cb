package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"nervous/app/identity"
)

// users are those in whose names this program asks. The service lets a caller ask 100 times a minute, and whoever
// watches a job closely asks more often, so they take turns.
type users struct {
	authorizations []string
	turns          atomic.Uint64
}

const (
	// howManyUsers may together ask 10,000 times a minute: many times what watching takes.
	howManyUsers = 100

	// asUsersFor is longer than anything is measured here.
	asUsersFor = time.Hour
)

// newUsers mints the tokens, once: each user has one, and may reconcile.
func newUsers() (*users, error) {
	u := &users{authorizations: make([]string, howManyUsers)}
	tokens := identity.New(tokenSecret)
	for i := range u.authorizations {
		caller := identity.Caller{User: fmt.Sprintf("local-%d", i), Scopes: []string{"reconcile"}}
		token, err := tokens.Mint(caller, asUsersFor)
		if err != nil {
			return nil, err
		}
		u.authorizations[i] = "Bearer " + token
	}
	return u, nil
}

// next returns the Authorization header of whose turn it is.
func (u *users) next() string {
	return u.authorizations[u.turns.Add(1)%uint64(len(u.authorizations))]
}
