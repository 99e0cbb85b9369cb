package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"nervous/app/api"
)

// description is openapi.yaml as JSON, and what checks answers by its schemas.
type description struct {
	document any
	schemas  *jsonschema.Compiler
}

const documentURL = "file:///openapi.json"

var described = sync.OnceValues(func() (d description, err error) {
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		return d, err
	}
	var asYAML any
	if err := yaml.Unmarshal(text, &asYAML); err != nil {
		return d, err
	}
	asJSON, err := json.Marshal(asYAML)
	if err != nil {
		return d, err
	}
	if d.document, err = jsonschema.UnmarshalJSON(bytes.NewReader(asJSON)); err != nil {
		return d, err
	}
	d.schemas = jsonschema.NewCompiler()
	d.schemas.DefaultDraft(jsonschema.Draft2020) // what OpenAPI 3.1 has
	d.schemas.AssertFormat()
	return d, d.schemas.AddResource(documentURL, d.document)
})

// node is a place in the document.
type node struct {
	description
	pointer string
	value   any
}

// at follows keys from the root, and references on the way. ok is false where there is nothing.
func (d description) at(keys ...string) (n node, ok bool) {
	n = node{d, "", d.document}
	for _, key := range keys {
		fields, is := n.value.(map[string]any)
		if !is {
			return n, false
		}
		value, has := fields[key]
		if !has {
			return n, false
		}
		escaped := url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(key))
		n = node{d, n.pointer + "/" + escaped, value}
		if reference, is := n.value.(map[string]any)["$ref"].(string); is {
			if n, ok = d.at(strings.Split(strings.TrimPrefix(reference, "#/"), "/")...); !ok {
				return n, false
			}
		}
	}
	return n, true
}

func (n node) below(key string) (node, bool) {
	fields, _ := n.value.(map[string]any)
	if _, has := fields[key]; !has {
		return n, false
	}
	var keys []string
	for _, part := range strings.Split(strings.TrimPrefix(n.pointer, "/"), "/") {
		part, _ = url.PathUnescape(part)
		keys = append(keys, strings.NewReplacer("~1", "/", "~0", "~").Replace(part))
	}
	return n.at(append(keys, key)...)
}

func (n node) keys() (keys []string) {
	fields, _ := n.value.(map[string]any)
	for key := range fields {
		keys = append(keys, key)
	}
	return keys
}

// validate checks a value by the schema at this place.
func (n node) validate(value any) error {
	schema, err := n.schemas.Compile(documentURL + "#" + n.pointer)
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

var compiling sync.Mutex // the compiler is for one caller at a time

// asDescribed checks every answer of the handler by openapi.yaml: its status, its headers and its body. So does every
// test of the surface.
func asDescribed(t testing.TB, h http.Handler) http.Handler {
	t.Helper()
	d, err := described()
	require.NoError(t, err)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := httptest.NewRecorder()
		h.ServeHTTP(got, r)
		d.check(t, r, got)
		for name, values := range got.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(got.Code)
		_, _ = w.Write(got.Body.Bytes())
	})
}

func (d description) check(t testing.TB, r *http.Request, got *httptest.ResponseRecorder) {
	compiling.Lock()
	defer compiling.Unlock()
	name := fmt.Sprintf("%s %s: %d", r.Method, r.URL.Path, got.Code)
	operation, ok := d.operation(r)
	missing := got.Code == http.StatusNotFound || got.Code == http.StatusMethodNotAllowed
	if !ok || missing && operation.isOfTheDemo() { // there is no demo
		assert.Contains(t, []int{
			http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnauthorized, http.StatusTooManyRequests,
			http.StatusBadRequest, http.StatusForbidden, http.StatusNoContent,
		}, got.Code, "%s is not described", name)
		return
	}
	responses, _ := operation.below("responses")
	response, stated := responses.below(strconv.Itoa(got.Code))
	if !stated {
		const clientClosedRequest = 499
		assert.Contains(t, []int{http.StatusInternalServerError, clientClosedRequest}, got.Code, "%s is not described", name)
		if response, stated = responses.below("default"); !stated {
			return
		}
	}
	checkHeaders(t, name, response, got.Header())
	if r.Method != http.MethodHead {
		checkBody(t, name, response, got)
	}
}

// checkHeaders holds the headers to the description: none is missing, and none is not described.
func checkHeaders(t testing.TB, name string, response node, got http.Header) {
	headers, _ := response.below("headers")
	for _, header := range headers.keys() {
		is, ok := headers.below(header)
		assert.True(t, ok, "%s: %s", name, header)
		value := got.Get(header)
		required, _ := is.value.(map[string]any)["required"].(bool)
		assert.False(t, required && value == "", "%s lacks the header %s", name, header)
		schema, ok := is.below("schema")
		if value == "" || !ok {
			continue
		}
		var asTyped any = value
		if number, err := strconv.Atoi(value); err == nil && schema.value.(map[string]any)["type"] == "integer" {
			asTyped = number
		}
		if err := schema.validate(asTyped); err != nil {
			assert.Fail(t, "not as described", "%s: %s: %s: %v", name, header, value, err)
		}
	}
	for header := range got {
		described := slices.ContainsFunc(headers.keys(), func(h string) bool { return strings.EqualFold(h, header) })
		plain := slices.Contains([]string{"Date", "Content-Type", "Content-Length", "Vary"}, header)
		assert.True(t, described || plain, "%s: the header %s is not described", name, header)
	}
}

func checkBody(t testing.TB, name string, response node, got *httptest.ResponseRecorder) {
	content, has := response.below("content")
	if !has {
		assert.Empty(t, got.Body.String(), "%s: a body is not described", name)
		return
	}
	media, ok := content.below(got.Header().Get("Content-Type"))
	if !assert.True(t, ok, "%s: Content-Type %q is not described", name, got.Header().Get("Content-Type")) {
		return
	}
	schema, _ := media.below("schema")
	var body any = got.Body.String()
	if strings.HasSuffix(got.Header().Get("Content-Type"), "json") {
		var err error
		body, err = jsonschema.UnmarshalJSON(bytes.NewReader(got.Body.Bytes()))
		assert.NoError(t, err, name)
	}
	assert.NoError(t, schema.validate(body), "%s: %s", name, got.Body)
}

// operation returns what the request asks for.
func (d description) operation(r *http.Request) (found node, ok bool) {
	path := strings.Split(r.URL.Path, "/")
	paths, _ := d.at("paths")
	for _, template := range paths.keys() {
		parts := strings.Split(template, "/")
		matches := len(parts) == len(path)
		for i := range parts {
			matches = matches && (parts[i] == path[i] || strings.HasPrefix(parts[i], "{"))
		}
		operation, has := d.at("paths", template, strings.ToLower(r.Method))
		if matches && has && (!ok || !strings.Contains(template, "{")) {
			found, ok = operation, true
		}
	}
	return found, ok
}

func (n node) isOfTheDemo() bool {
	tags, _ := n.value.(map[string]any)["tags"].([]any)
	return slices.Contains(tags, any("demo"))
}

// Every route is described, and everything that is described is a route.
func TestOpenAPI_Routes(t *testing.T) {
	t.Parallel()
	d, err := described()
	require.NoError(t, err)
	for _, demo := range []bool{true, false} {
		var want []string
		paths, _ := d.at("paths")
		for _, path := range paths.keys() {
			for _, method := range []string{"get", "head", "post", "put", "patch", "delete"} {
				operation, has := d.at("paths", path, method)
				if has && (demo || !operation.isOfTheDemo()) {
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

// The demo's routes and choices are refused to callers with a public address.
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
