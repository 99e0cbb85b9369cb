package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/labstack/echo/v4"
)

// decodeStrictly reads a body of one JSON object with known fields only, and at most that many bytes: a problem that
// names the field, or io.EOF when there is no body.
func decodeStrictly(c echo.Context, most int64, into any) error {
	body, err := io.ReadAll(http.MaxBytesReader(c.Response(), c.Request().Body, most))
	if err != nil {
		return unreadable(err, most)
	}
	if err = decodeObject(body, into); err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if mistyped, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && mistyped.Field != "" {
		return problem{
			Status: http.StatusBadRequest, Title: "Wrong type", Field: mistyped.Field,
			Detail: fmt.Sprintf("%s cannot be a %s.", mistyped.Field, mistyped.Value),
		}
	}
	return problem{
		Status: http.StatusBadRequest, Title: "Body is not understood", Field: "body",
		Detail: "It is not valid: " + err.Error() + ".",
	}
}

// unreadable says why a body has not arrived.
func unreadable(err error, most int64) problem {
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return problem{
			Status: http.StatusRequestEntityTooLarge, Title: "Body too large", Field: "body",
			Detail: fmt.Sprintf("It may have %d bytes.", most),
		}
	}
	if late, is := errors.AsType[net.Error](err); is && late.Timeout() {
		return problem{
			Status: http.StatusRequestTimeout, Title: "Body took too long", Field: "body",
			Detail: "It did not arrive in time. Send it again.",
		}
	}
	return problem{Status: http.StatusBadRequest, Title: "Body is not complete", Field: "body"}
}

func decodeObject(body []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if start := bytes.TrimSpace(body); len(start) > 0 && start[0] != '{' {
		return errors.New("it must be a JSON object")
	}
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
		return errors.New("there is more than one JSON value")
	}
	return nil
}
