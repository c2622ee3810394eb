package lm

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestParseSafetensors(t *testing.T) {
	entry := func(dtype string, begin, end int, shape ...int) map[string]any {
		return map[string]any{"dtype": dtype, "shape": append([]int{}, shape...), "data_offsets": []int{begin, end}}
	}
	data := []byte{0, 0x3c, 0, 0xc0, 0, 0, 0x80, 0x3f}
	for _, c := range []struct {
		header any
		want   string // part of the error; "" for none
	}{
		{map[string]any{"a": entry("F16", 0, 4, 2), "b": entry("BF16", 4, 8, 1, 2), "__metadata__": "x"}, ""},
		{map[string]any{"a": entry("F32", 0, 4), "b": entry("F32", 4, 8, 1, 1), "c": entry("F32", 4, 4, 0, 9)}, ""},
		{map[string]any{"a": entry("F8_E4M3", 0, 8, 8)}, ""}, // unknown, and not needed
		{map[string]any{"a": entry("F16", 0, 4, 2)}, "the tensors end at byte 4 of 8"},
		{map[string]any{"a": entry("F16", 2, 8, 3)}, "gap or overlap at byte 0"},
		{map[string]any{"a": entry("F16", 0, 6, 3), "b": entry("F16", 4, 8, 2)}, "gap or overlap at byte 6"},
		{map[string]any{"a": entry("F16", 0, 10, 5)}, "data_offsets [0, 10] are outside the 8 bytes of data"},
		{map[string]any{"a": entry("F16", -2, 8, 5)}, "data_offsets [-2, 8] are outside"},
		{map[string]any{"a": entry("F16", 6, 4, 5)}, "data_offsets [6, 4] are outside"},
		{map[string]any{"a": entry("F16", 0, 8, 3)}, "8 bytes do not hold F16 of shape [3]"},
		{map[string]any{"a": entry("F16", 0, 8, -4, -1)}, "8 bytes do not hold F16 of shape [-4 -1]"},
		{map[string]any{"a": entry("F16", 0, 8, 1<<62, 4)}, "8 bytes do not hold F16"},
		{map[string]any{"a": 5}, `tensor "a": json: cannot unmarshal`},
		{[]int{}, "cannot parse the header"},
	} {
		_, err := parseSafetensors(safetensorsBytes(c.header, data))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got error %v, want %q", c.header, err, c.want)
		}
	}
	for _, file := range []string{"", "1234567", "\xff\xff\xff\xff\xff\xff\xff\xff{}", "\x03\x00\x00\x00\x00\x00\x00\x00{}"} {
		if _, err := parseSafetensors([]byte(file)); err == nil {
			t.Errorf("%q: no error", file)
		}
	}
}

func TestTensorFloats(t *testing.T) {
	for _, c := range []struct {
		dtype string
		data  []byte
		want  []float32
	}{
		{"F16", []byte{0, 0x3c, 0, 0xc0}, []float32{1, -2}},
		{"BF16", []byte{0x80, 0x3f, 0, 0xc0}, []float32{1, -2}},
		{"F32", []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0}, []float32{1, -2}},
	} {
		got, err := tensor{dtype: c.dtype, data: c.data}.floats()
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, %v, want %v", c.dtype, got, err, c.want)
		}
	}
	for _, dtype := range []string{"I64", "F8_E4M3", ""} {
		if _, err := (tensor{dtype: dtype, data: make([]byte, 8)}).floats(); err == nil {
			t.Errorf("%s: converted", dtype)
		}
	}
}

// TestFromHalf compares all halves with the definition.
func TestFromHalf(t *testing.T) {
	for h := range 1 << 16 {
		exponent, mantissa := h>>10&0x1f, float64(h&0x3ff)
		want := math.Ldexp(1+mantissa/1024, exponent-15)
		switch {
		case exponent == 0:
			want = math.Ldexp(mantissa/1024, -14)
		case exponent == 31 && mantissa == 0:
			want = math.Inf(1)
		case exponent == 31:
			want = math.NaN()
		}
		if h>>15 == 1 {
			want = math.Copysign(want, -1)
		}
		got := float64(fromHalf(uint16(h)))
		if got != want && !(math.IsNaN(got) && math.IsNaN(want)) || math.Signbit(got) != math.Signbit(want) && !math.IsNaN(want) {
			t.Errorf("%#x: got %v, want %v", h, got, want)
		}
	}
}

func FuzzSafetensors(f *testing.F) {
	f.Add(safetensorsFile(map[string]floatTensor{"a": {[]int{2, 1}, []float32{1, 2}}, "b": {nil, []float32{3}}}))
	f.Add(binary.LittleEndian.AppendUint64(nil, math.MaxUint64))
	f.Add([]byte("\x02\x00\x00\x00\x00\x00\x00\x00{}"))
	f.Fuzz(func(t *testing.T, file []byte) {
		tensors, err := parseSafetensors(file)
		if err != nil {
			return
		}
		total := 0
		for name, tensor := range tensors {
			total += len(tensor.data)
			values, err := tensor.floats()
			if n, ok := elements(tensor.shape, len(tensor.data)); err == nil && (!ok || len(values) != n) {
				t.Errorf("%q: %d values of shape %v", name, len(values), tensor.shape)
			}
		}
		if total > len(file) {
			t.Errorf("%d bytes of tensors in a file of %d", total, len(file))
		}
	})
}
