package lm

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
)

// tensor is one entry of a safetensors file.
type tensor struct {
	dtype string // F16, BF16, F32, or one that we cannot convert
	shape []int
	data  []byte // little-endian, row-major; aliases the file
}

// elementSize gives the bytes of one element of the types that models come in.
// Others are parsed (a file may hold tensors that we do not need) with their
// size unchecked.
var elementSize = map[string]int{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}

// parseSafetensors reads the table of a safetensors file: eight bytes of header
// length, a JSON header, data. Every offset is checked against the file, and as
// the format demands, the tensors must cover the data without gaps or overlaps.
// The tensors alias file.
//
// Source: https://github.com/huggingface/safetensors (section Format).
func parseSafetensors(file []byte) (map[string]tensor, error) {
	if len(file) < 8 {
		return nil, errors.New("the file is shorter than its header")
	}
	n := binary.LittleEndian.Uint64(file)
	if n > uint64(len(file)-8) {
		return nil, fmt.Errorf("the header claims %d bytes of %d", n, len(file)-8)
	}
	var header map[string]json.RawMessage
	if err := json.Unmarshal(file[8:8+n], &header); err != nil {
		return nil, fmt.Errorf("cannot parse the header: %w", err)
	}
	data := file[8+n:]
	delete(header, "__metadata__")
	tensors := make(map[string]tensor, len(header))
	spans := make([][2]int, 0, len(header))
	for name, raw := range header {
		t, span, err := parseTensor(raw, data)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		tensors[name] = t
		spans = append(spans, span)
	}
	slices.SortFunc(spans, func(a, b [2]int) int {
		if a[0] != b[0] {
			return a[0] - b[0]
		}
		return a[1] - b[1]
	})
	end := 0
	for _, s := range spans {
		if s[0] != end {
			return nil, fmt.Errorf("gap or overlap at byte %d of the data", end)
		}
		end = s[1]
	}
	if end != len(data) {
		return nil, fmt.Errorf("the tensors end at byte %d of %d", end, len(data))
	}
	return tensors, nil
}

// parseTensor reads one header entry and checks it against the data.
func parseTensor(raw json.RawMessage, data []byte) (tensor, [2]int, error) {
	var entry struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	if err := json.Unmarshal(raw, &entry); err != nil {
		return tensor{}, [2]int{}, err
	}
	begin, end := entry.Offsets[0], entry.Offsets[1]
	if begin < 0 || begin > end || end > len(data) {
		return tensor{}, [2]int{}, fmt.Errorf("data_offsets [%d, %d] are outside the %d bytes of data", begin, end, len(data))
	}
	t := tensor{dtype: entry.DType, shape: entry.Shape, data: data[begin:end:end]}
	if size, known := elementSize[t.dtype]; known {
		n, ok := elements(t.shape, len(t.data))
		if !ok || n*size != len(t.data) {
			return tensor{}, [2]int{}, fmt.Errorf("%d bytes do not hold %s of shape %v", len(t.data), t.dtype, t.shape)
		}
	}
	return t, entry.Offsets, nil
}

// elements multiplies out a shape; false if a dimension is negative or the
// product exceeds limit.
func elements(shape []int, limit int) (int, bool) {
	n := 1
	for _, d := range shape {
		if d < 0 || d > 0 && n > limit/d {
			return 0, false
		}
		n *= d
	}
	return n, true
}

// floats converts the tensor to float32; every value of F16 and BF16 has one.
func (t tensor) floats() ([]float32, error) {
	out := make([]float32, len(t.data)/max(1, elementSize[t.dtype]))
	switch t.dtype {
	case "F32":
		for i := range out {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.data[4*i:]))
		}
	case "F16":
		for i := range out {
			out[i] = fromHalf(binary.LittleEndian.Uint16(t.data[2*i:]))
		}
	case "BF16":
		for i := range out {
			out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(t.data[2*i:])) << 16)
		}
	default:
		return nil, fmt.Errorf("cannot convert %s to float32", t.dtype)
	}
	return out, nil
}

// fromHalf converts an IEEE 754 half: 1 sign bit, 5 of exponent (bias 15), 10
// of mantissa.
func fromHalf(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exponent := uint32(h>>10) & 0x1f
	mantissa := uint32(h & 0x3ff)
	switch exponent {
	case 0: // zero or subnormal: mantissa · 2^-24, which is a normal float32
		return math.Float32frombits(sign | math.Float32bits(float32(mantissa)*0x1p-24))
	case 0x1f: // infinity or NaN
		return math.Float32frombits(sign | 0x7f800000 | mantissa<<13)
	}
	return math.Float32frombits(sign | (exponent+127-15)<<23 | mantissa<<13)
}
