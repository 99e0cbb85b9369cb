package otlp

import (
	"strconv"
	"strings"

	common "go.opentelemetry.io/proto/otlp/common/v1"
)

// text writes an attribute's value as Go's %v would: lists in brackets, separated by spaces.
func text(value *common.AnyValue) string {
	switch v := value.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_BoolValue:
		return strconv.FormatBool(v.BoolValue)
	case *common.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10)
	case *common.AnyValue_DoubleValue:
		return strconv.FormatFloat(v.DoubleValue, 'g', -1, 64)
	case *common.AnyValue_ArrayValue:
		var elements []string
		for _, element := range v.ArrayValue.GetValues() {
			elements = append(elements, text(element))
		}
		return "[" + strings.Join(elements, " ") + "]"
	}
	return value.String() // none of ours
}
