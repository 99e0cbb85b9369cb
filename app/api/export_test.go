package api

import "net/http"

// RoutesOf returns the method and path of every route of a handler that New has made.
func RoutesOf(h http.Handler) (routes []string) {
	for _, r := range h.(surface).routes.Routes() {
		routes = append(routes, r.Method+" "+r.Path)
	}
	return routes
}
