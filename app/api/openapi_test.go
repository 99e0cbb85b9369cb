package api_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"nervous/app/api"
)

// description is openapi.yaml, and what checks answers by it.
type description struct {
	model    *v3.Document
	validate validator.Validator
}

var described = sync.OnceValues(func() (description, error) {
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		return description{}, err
	}
	document, err := libopenapi.NewDocument(text)
	if err != nil {
		return description{}, err
	}
	built, err := document.BuildV3Model()
	if err != nil {
		return description{}, err
	}
	return description{&built.Model, validator.NewValidatorFromV3Model(&built.Model,
		config.WithStrictMode(), config.WithFormatAssertions(), config.WithoutSecurityValidation(),
		config.WithStrictIgnoredHeadersExtra("date", "content-length", "content-type", "vary"))}, nil
})

// asDescribed checks every answer of the handler by openapi.yaml: its status, its headers and its body. So does every
// test of the surface.
func asDescribed(t testing.TB, h http.Handler) http.Handler {
	t.Helper()
	d, err := described()
	require.NoError(t, err)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := httptest.NewRecorder()
		h.ServeHTTP(got, r)
		d.check(t, r, got.Result(), got.Body.Bytes())
		for name, values := range got.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(got.Code)
		_, _ = w.Write(got.Body.Bytes())
	})
}

func (d description) check(t testing.TB, r *http.Request, got *http.Response, body []byte) {
	operation := d.operation(r)
	missing := got.StatusCode == http.StatusNotFound || got.StatusCode == http.StatusMethodNotAllowed
	if operation == nil || missing && slices.Contains(operation.Tags, "demo") { // there is no demo
		assert.Contains(t, []int{
			http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnauthorized, http.StatusTooManyRequests,
			http.StatusBadRequest, http.StatusForbidden, http.StatusNoContent,
		}, got.StatusCode, "%s %s is not described", r.Method, r.URL.Path)
		return
	}
	_, stated := operation.Responses.Codes.Get(strconv.Itoa(got.StatusCode))
	const clientClosedRequest = 499
	unlisted := got.StatusCode == http.StatusInternalServerError || got.StatusCode == clientClosedRequest
	assert.True(t, stated || unlisted, "%s %s answers %d, which is not described", r.Method, r.URL.Path, got.StatusCode)
	if r.Method == http.MethodHead {
		return // the same without the body
	}
	got.Body = io.NopCloser(bytes.NewReader(body))
	if _, faults := d.validate.ValidateHttpResponse(r, got); len(faults) > 0 {
		for _, fault := range faults {
			assert.Fail(t, "not as described", "%s %s: %d: %s: %s\n%s", r.Method, r.URL.Path, got.StatusCode,
				fault.Message, fault.Reason, body)
		}
	}
}

// operation returns what the request asks for, or nil where there is none.
func (d description) operation(r *http.Request) *v3.Operation {
	path := strings.Split(r.URL.Path, "/")
	var found *v3.Operation
	for template, item := range d.model.Paths.PathItems.FromOldest() {
		parts := strings.Split(template, "/")
		matches := len(parts) == len(path)
		for i := range parts {
			matches = matches && (parts[i] == path[i] || strings.HasPrefix(parts[i], "{"))
		}
		operation, has := item.GetOperations().Get(strings.ToLower(r.Method))
		if matches && has && (found == nil || !strings.Contains(template, "{")) {
			found = operation
		}
	}
	return found
}

// Every route is described, and everything that is described is a route.
func TestOpenAPI_Routes(t *testing.T) {
	t.Parallel()
	d, err := described()
	require.NoError(t, err)
	for _, demo := range []bool{true, false} {
		var want []string
		for path, item := range d.model.Paths.PathItems.FromOldest() {
			for method, operation := range item.GetOperations().FromOldest() {
				if demo || !slices.Contains(operation.Tags, "demo") {
					want = append(want, strings.ToUpper(method)+" "+strings.ReplaceAll(path, "{id}", ":id"))
				}
			}
		}
		s := newSurface(t, demo)
		require.ElementsMatch(t, want, api.RoutesOf(s.handler))
	}
}

func TestOpenAPI_IsServed(t *testing.T) {
	t.Parallel()
	s := newSurface(t, false)
	want, err := os.ReadFile("openapi.yaml")
	require.NoError(t, err)
	got := s.ask(t, http.MethodGet, "/openapi.yaml", "")
	require.Equal(t, http.StatusOK, got.StatusCode)
	require.Equal(t, "application/yaml", got.Header.Get("Content-Type"))
	require.Equal(t, string(want), string(got.body))
}

// HEAD is GET without the body, with the same limit; a method that a path lacks is refused with those that it has.
func TestHEADAndAllow(t *testing.T) {
	t.Parallel()
	s := newSurface(t, true)
	for _, path := range []string{"/", "/openapi.yaml", "/healthz", "/readyz", "/posts/trending", "/payments"} {
		get, head := s.ask(t, http.MethodGet, path, ""), s.ask(t, http.MethodHead, path, "")
		require.Equal(t, http.StatusOK, head.StatusCode, path)
		require.Empty(t, head.body)
		require.Equal(t, get.Header.Get("RateLimit") != "", head.Header.Get("RateLimit") != "", path)

		refused := s.ask(t, http.MethodPut, path, "")
		require.Equal(t, http.StatusMethodNotAllowed, refused.StatusCode)
		require.Contains(t, refused.Header.Get("Allow"), "GET")
		require.Contains(t, refused.Header.Get("Allow"), "HEAD")
	}
}

// Also the demo's routes and choices are for callers nearby only.
func TestDemo_CallersFromAfar(t *testing.T) {
	t.Parallel()
	s := newSurface(t, true)
	for address, near := range map[string]bool{
		"127.0.0.1": true, "::1": true, "10.1.2.3": true, "172.20.0.1": true, "192.168.1.1": true, "fd00::1": true,
		"8.8.8.8": false, "2001:4860::8888": false, "172.32.0.1": false, "": false,
	} {
		for _, c := range []struct{ method, path, strategy string }{
			{http.MethodDelete, "/posts/trending", ""},
			{http.MethodDelete, "/reconcile", ""},
			{http.MethodDelete, "/ratelimit", ""},
			{http.MethodGet, "/payments", ""},
			{http.MethodGet, "/posts/trending?strategy=preload", ""},
			{http.MethodGet, "/posts/trending", "off"},
		} {
			request := httptest.NewRequestWithContext(context.WithoutCancel(t.Context()), c.method, c.path, nil)
			request.RemoteAddr = address
			if address != "" {
				request.RemoteAddr = "[" + address + "]:1234"
			}
			request.Header.Set("Authorization", s.bearer(t, "42", "reconcile"))
			if c.strategy != "" {
				request.Header.Set("X-RateLimit-Strategy", c.strategy)
			}
			got := httptest.NewRecorder()
			s.handler.ServeHTTP(got, request)
			require.Equal(t, near, got.Code < 300, "%s %s from %q: %d", c.method, c.path, address, got.Code)
			require.Equal(t, !near, got.Code == http.StatusForbidden)
		}
	}
}
