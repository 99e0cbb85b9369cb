package identity

import (
	"fmt"
	"io"
)

// MinSecretBytes is the least length of a Secret: RFC 7518 asks for a key as long as the hash that it is for.
const MinSecretBytes = 32

// Secret signs tokens. Printed, logged or marshalled it shows only that it is there; read it by converting it.
type Secret string

const hidden = "[hidden]"

// Format shows nothing of the secret, whatever the verb. A String method would not do: %d goes past it.
func (Secret) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, hidden) // fmt keeps what is written in memory
}

// MarshalText is for what does not print by fmt: JSON, and with it most loggers.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }
