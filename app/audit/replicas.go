package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/sync/errgroup"

	"nervous/app/telemetry"
)

// replicas are base URLs.
type replicas []string

// Find returns the base URLs of all replicas, given some whose hosts may be names of several: it looks up their
// addresses.
func Find(ctx context.Context, bases []string) ([]string, error) {
	var found []string
	for _, base := range bases {
		u, err := url.Parse(base)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("%q is not the address of a replica, as http://127.0.0.1:8091 is", base)
		}
		addresses, err := net.DefaultResolver.LookupHost(ctx, u.Hostname())
		if err != nil {
			return nil, err
		}
		for _, address := range addresses {
			here := *u
			if here.Host = address; u.Port() != "" {
				here.Host = net.JoinHostPort(address, u.Port())
			}
			found = append(found, here.String())
		}
	}
	if len(found) == 0 {
		return nil, errors.New("there is no replica to ask")
	}
	return found, nil
}

// ledgers asks all at the same time.
func (r replicas) ledgers(ctx context.Context) ([]telemetry.Ledger, error) {
	told := make([]telemetry.Ledger, len(r))
	group, ctx := errgroup.WithContext(ctx)
	for i, address := range r {
		group.Go(func() (err error) {
			told[i], err = ask(ctx, strings.TrimRight(address, "/")+"/ledger")
			return err
		})
	}
	return told, group.Wait()
}

func ask(ctx context.Context, address string) (told telemetry.Ledger, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return told, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return told, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return told, fmt.Errorf("%s: %s (a replica shows its ledger at its ADMIN_ADDR, and in a demo only: DEMO=true)",
			address, answer.Status)
	}
	if err := json.NewDecoder(answer.Body).Decode(&told); err != nil {
		return told, fmt.Errorf("%s: %w", address, err)
	}
	if told.Since.IsZero() {
		return told, fmt.Errorf("%s: its traces are switched off, so nothing is traced", address)
	}
	return told, nil
}
