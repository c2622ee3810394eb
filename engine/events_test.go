package engine

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// events decodes a whole stream; a data text is quoted by the test's own "|".
func events(t *testing.T, r io.Reader, max int) ([]string, error) {
	t.Helper()
	e := NewEvents(r, max)
	var all []string
	for {
		data, err := e.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, string(data))
	}
}

func TestEvents(t *testing.T) {
	f := func(stream string, want ...string) {
		t.Helper()
		readers := map[string]io.Reader{
			"whole": strings.NewReader(stream),
			"bytes": iotest.OneByteReader(strings.NewReader(stream)),
			"half":  iotest.HalfReader(strings.NewReader(stream)),
			"err":   iotest.DataErrReader(strings.NewReader(stream)),
		}
		for name, r := range readers {
			got, err := events(t, r, 0)
			if err != nil || strings.Join(got, "|") != strings.Join(want, "|") || len(got) != len(want) {
				t.Errorf("%q by %s: %q, %v; want %q", stream, name, got, err, want)
			}
		}
	}
	f("")
	f("\n\n\r\n\r")
	f("data: a\n\ndata: b\n\n", "a", "b")
	f("data: a\r\n\r\ndata: b\r\n\r\n", "a", "b")
	f("data: a\r\rdata: b\r\r", "a", "b")
	f("data: a\r\n\ndata: b\n\r\ndata: c\r\r\n", "a", "b", "c")
	f("data:a\n\ndata:  b \n\n", "a", " b ")
	f("data: a\ndata: b\n\ndata: c\n\n", "a\nb", "c")
	f("data: a\r\ndata:\r\ndata: b\r\n\r\n", "a\n\nb")
	f("data\n\ndata:\n\n", "", "")
	f("data\ndata\n\n", "\n")
	f(": ping\n\n:\n\ndata: a\n: pong\ndata: b\n\n", "a\nb")
	f("event: x\nid: 1\nretry: 5\n\ndata: a\nevent: y\n\n", "a")
	f("datax: a\n data: b\nDATA: c\n\ndata: d\n\n", "d")
	f("\ufeffdata: a\n\n\ufeffdata: b\n\ndata: c\n\n", "a", "c")
	f("data: a\n\ndata: [DONE]\n\n", "a", "[DONE]")
	f("data: a\n\ndata: [DONE]\n", "a", "[DONE]")
	f("data: a\n\ndata: [DONE]", "a", "[DONE]")
	f("data: "+strings.Repeat("x", 100_000)+"\n\ndata: b\n\n", strings.Repeat("x", 100_000), "b")
	f(strings.Repeat("data: "+strings.Repeat("y", 700)+"\n", 20)+"\n", strings.TrimSuffix(strings.Repeat(strings.Repeat("y", 700)+"\n", 20), "\n"))
	f(strings.Repeat(": "+strings.Repeat("c", 900)+"\n", 50)+"data: a\n\n", "a")
	f("data: {\"text\":\"caf\xc3\xa9 \u2028\"}\n\n", "{\"text\":\"caf\xc3\xa9 \u2028\"}")
}

func TestEventsErrors(t *testing.T) {
	broken := errors.New("broken")
	f := func(stream string, end error, max int, wantErr error, want ...string) {
		t.Helper()
		got, err := events(t, io.MultiReader(strings.NewReader(stream), iotest.ErrReader(end)), max)
		if !errors.Is(err, wantErr) || strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%.60q: %q, %v; want %q, %v", stream, got, err, want, wantErr)
		}
	}
	f("data: a\n\ndata: b\n", broken, 0, broken, "a")
	f("data: a\n\ndata: b", io.ErrUnexpectedEOF, 0, io.ErrUnexpectedEOF, "a")
	f("data: a\n\ndata: "+strings.Repeat("x", 5000)+"\n\n", io.EOF, 4999, ErrEventTooLong, "a")
	f("data: a\n\ndata: "+strings.Repeat("x", 5000), io.EOF, 100, ErrEventTooLong, "a")
	f(strings.Repeat("data: 0123456789\n", 100)+"\n", io.EOF, 100, ErrEventTooLong)
	f(": "+strings.Repeat("x", 10_000), io.EOF, 100, ErrEventTooLong)
	if _, err := NewEvents(stuck{}, 0).Next(); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("error %v", err)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// loop repeats a stream for ever.
type loop struct {
	text string
	at   int
}

func (l *loop) Read(p []byte) (int, error) {
	n := copy(p, l.text[l.at:])
	l.at = (l.at + n) % len(l.text)
	return n, nil
}

const event = `data: {"id":"chatcmpl-846f65f980f6b5b0","object":"chat.completion.chunk","created":1795469081,"model":"target","choices":[{"index":0,"delta":{"content":"!"},"logprobs":null,"finish_reason":null,"token_ids":[5]}]}` + "\n\n"

func TestEventsAllocate(t *testing.T) {
	for _, text := range []string{event, "data: a\r\ndata: b\r\n\r\n", ": ping\n\n" + event} {
		e := NewEvents(&loop{text: text}, 0)
		for range 100 {
			e.Next()
		}
		if n := testing.AllocsPerRun(1000, func() { e.Next() }); n != 0 {
			t.Errorf("%.20q: %v allocations an event", text, n)
		}
	}
}

func BenchmarkEvents(b *testing.B) {
	e := NewEvents(&loop{text: event}, 0)
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		e.Next()
	}
}

// naive is the standard's algorithm over a whole stream.
func naive(stream []byte) []string {
	stream = bytes.TrimPrefix(stream, []byte("\ufeff"))
	s := strings.ReplaceAll(string(stream), "\r\n", "\n")
	s = strings.ReplaceAll(s, "\r", "\n")
	var all, data []string
	for line := range strings.SplitSeq(s, "\n") {
		if line == "" {
			if data != nil {
				all = append(all, strings.Join(data, "\n"))
			}
			data = nil
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		if name == "data" {
			data = append(data, strings.TrimPrefix(value, " "))
		}
	}
	if data != nil { // our deviation: the regular end ends the event
		all = append(all, strings.Join(data, "\n"))
	}
	return all
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte("data: a\n\ndata: b\r\n\r\n: c\rdata\r\r"), 3)
	f.Add([]byte("\ufeffdata: a\ndata: b\n\ndata: [DONE]"), 1)
	f.Fuzz(func(t *testing.T, stream []byte, step int) {
		if step <= 0 || step > 5000 {
			step = 1
		}
		got, err := events(t, &steps{stream, step}, 0)
		want := naive(stream)
		if err != nil || strings.Join(got, "\x00") != strings.Join(want, "\x00") || len(got) != len(want) {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	})
}

// steps reads at most n bytes at a time.
type steps struct {
	rest []byte
	n    int
}

func (s *steps) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.rest[:min(s.n, len(s.rest))])
	s.rest = s.rest[n:]
	return n, nil
}
