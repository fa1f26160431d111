package receive

import (
	"fmt"
	"math"

	"github.com/golang/snappy"
	"google.golang.org/protobuf/encoding/protowire"
)

// Samples calls yield with every sample of a request. The labels are valid until
// yield returns; millis is since 1970. Metadata is left out.
func Samples(body []byte, yield func(labels map[string]string, value float64, millis int64)) error {
	raw, err := snappy.Decode(nil, body)
	if err != nil {
		return fmt.Errorf("decode request: %w", err)
	}
	labels := map[string]string{}
	return messages(raw, func(field protowire.Number, content []byte) error {
		if field != 1 {
			return nil
		}
		clear(labels)
		return series(content, labels, yield)
	})
}

// series reads the labels of a series, which come first, and its samples.
func series(b []byte, labels map[string]string, yield func(map[string]string, float64, int64)) error {
	return messages(b, func(field protowire.Number, content []byte) error {
		switch field {
		case 1:
			var texts [3]string
			err := messages(content, func(f protowire.Number, text []byte) error {
				if f < 3 {
					texts[f] = string(text)
				}
				return nil
			})
			labels[texts[1]] = texts[2]
			return err
		case 2:
			value, millis, err := sample(content)
			if err == nil {
				yield(labels, value, millis)
			}
			return err
		}
		return nil
	})
}

// sample reads a message of two numbers, either of which is left out when it is
// zero.
func sample(b []byte) (value float64, millis int64, err error) {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, 0, protowire.ParseError(n)
		}
		b = b[n:]
		switch {
		case field == 1 && kind == protowire.Fixed64Type:
			var bits uint64
			bits, n = protowire.ConsumeFixed64(b)
			value = math.Float64frombits(bits)
		case field == 2 && kind == protowire.VarintType:
			var v uint64
			v, n = protowire.ConsumeVarint(b)
			millis = int64(v) //nolint:gosec // two's complement
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return 0, 0, protowire.ParseError(n)
		}
		b = b[n:]
	}
	return value, millis, nil
}

// messages calls yield with every field of a message, all of which hold bytes.
func messages(b []byte, yield func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 || kind != protowire.BytesType {
			return fmt.Errorf("decode request: field %d of kind %d", field, kind)
		}
		content, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return protowire.ParseError(m)
		}
		if err := yield(field, content); err != nil {
			return err
		}
		b = b[n+m:]
	}
	return nil
}
