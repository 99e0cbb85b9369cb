package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// place is a port on 127.0.0.1 that a part of the deployment answers at.
type place struct {
	port  int
	part  string
	moved string // by which flag or variable; "" where the part's configuration file, shared with compose, fixes it
}

func (p place) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)) }

func (p place) url() string { return "http://" + p.address() }

// allFree checks that every place can be had. Its error names all that cannot, so that one correction is enough.
func allFree(places []place) error {
	var taken strings.Builder
	for _, p := range places {
		err := free(p.address())
		if err == nil {
			continue
		}
		remedy := "start with " + p.moved
		if p.moved == "" {
			remedy = "free it, or take the program off PATH: it is optional"
		}
		fmt.Fprintf(&taken, "  %d, for %s: %v; %s\n", p.port, p.part, err, remedy)
	}
	if taken.Len() == 0 {
		return nil
	}
	return fmt.Errorf("nothing was started, because these ports cannot be had "+
		"(another ./deploy/local/up, or docker compose, would hold them):\n%s", &taken)
}

// free says why nothing can listen on an address, or nil. It knocks first: on macOS one program may listen on
// 127.0.0.1 although another already answers there on all interfaces.
func free(address string) error {
	if knock, err := net.DialTimeout("tcp", address, time.Second); err == nil {
		knock.Close()
		return errors.New("another program answers there")
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			err = cause // without the address, which the reader has just been told
		}
		return err
	}
	return listener.Close()
}

// serve answers on a port of 127.0.0.1 until the server is closed; port 0 is any free one.
func serve(port int, handler http.Handler) (*http.Server, place, error) {
	listener, err := net.Listen("tcp", place{port: port}.address())
	if err != nil {
		return nil, place{}, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(listener) //nolint:errcheck // it ends when it is closed, and with nothing to say
	return server, place{port: listener.Addr().(*net.TCPAddr).Port}, nil
}
