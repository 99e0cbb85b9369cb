package main

import (
	"fmt"
	"slices"
)

// What is ended on purpose is no crash: the part leaves the supervisor's watch before it ends, and may be started
// again.

// end asks one part to end and waits for that.
func (s *supervisor) end(name string) error {
	w, err := s.release(name)
	if err != nil {
		return err
	}
	return w.end()
}

// kill ends one part as kill -9 does: without a last word.
func (s *supervisor) kill(name string) error {
	w, err := s.release(name)
	if err != nil {
		return err
	}
	return w.kill()
}

func (s *supervisor) release(name string) (watched, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.watched, func(w watched) bool { return w.name == name })
	if i < 0 {
		return watched{}, fmt.Errorf("no part is named %s", name)
	}
	w := s.watched[i]
	// A copy: stop may be going through the list at this moment.
	s.watched = slices.Concat(s.watched[:i], s.watched[i+1:])
	return w, nil
}

// watches tells whether the part is still under supervision. The lock is held.
func (s *supervisor) watches(w watched) bool {
	return slices.ContainsFunc(s.watched, func(other watched) bool { return other.gone == w.gone })
}
