package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/labstack/echo/v4"
)

// decodeStrictly reads a body of one JSON object with known fields only, and at most that many bytes: a problem that
// names the field, or io.EOF when there is no body.
func decodeStrictly(c echo.Context, most int64, into any) error {
	decoder := json.NewDecoder(http.MaxBytesReader(c.Response(), c.Request().Body, most))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil {
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more than one JSON value")
		}
	}
	if mistyped, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && mistyped.Field != "" {
		return problem{
			Status: http.StatusBadRequest, Title: "Wrong type", Field: mistyped.Field,
			Detail: fmt.Sprintf("%s cannot be a %s.", mistyped.Field, mistyped.Value),
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return problem{
			Status: http.StatusBadRequest, Title: "Body is not understood", Detail: err.Error(), Field: "body",
		}
	}
	return err
}
