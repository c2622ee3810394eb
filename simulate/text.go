package simulate

import (
	"strings"
	"unicode/utf8"

	"paceline/simulate/lm"
	"paceline/simulate/vllm"
	"paceline/vocab"
)

const replacement = "\uFFFD"

// decoder turns tokens into text as they come: Hugging Face's DecodeStream,
// which vLLM primes with the prompt. Text that may still change (it ends in a
// part of a character) is held back.
//
// If the prompt itself ends inside a character, the stream has no prefix to
// subtract and hands out the text of the whole prompt with the token that
// completes it. That is what vLLM does, too.
type decoder struct {
	t      *lm.Tokenizer
	skip   bool
	ids    []vocab.Token
	prefix string
	read   int // ids whose text is prefix
}

func newDecoder(t *lm.Tokenizer, prompt []vocab.Token, skip bool) *decoder {
	return &decoder{t: t, skip: skip, ids: append([]vocab.Token(nil), prompt...)}
}

// step returns the text that a token completes; "" if there is none yet.
func (d *decoder) step(id vocab.Token) string {
	if d.prefix == "" && len(d.ids) > 0 {
		if text := d.t.Decode(d.ids, d.skip); !strings.HasSuffix(text, replacement) {
			d.prefix, d.read = text, len(d.ids)
		}
	}
	d.ids = append(d.ids, id)
	text := d.t.Decode(d.ids, d.skip)
	if len(text) <= len(d.prefix) || strings.HasSuffix(text, replacement) {
		return ""
	}
	if !strings.HasPrefix(text, d.prefix) { // vLLM starts a new stream then
		*d = decoder{t: d.t, skip: d.skip}
		return d.step(id)
	}
	fresh := text[len(d.prefix):]
	read := len(d.ids) - d.read
	d.ids = append([]vocab.Token(nil), d.ids[d.read:]...)
	d.prefix = d.t.Decode(d.ids, d.skip)
	d.read = read
	return fresh
}

// text is the text of one answer: decoded as it comes, searched for stop
// strings, and held back as long as a stop string might begin in it.
type text struct {
	d       *decoder // nil: nothing is detokenised
	stop    []string
	include bool // the stop string stays
	min     int  // tokens before which nothing stops
	hold    int  // characters held back until the end
	all     string
	given   int // bytes of all that were handed out
	tokens  int
}

func newText(t *lm.Tokenizer, prompt []vocab.Token, s *vllm.Sampling) *text {
	if !s.Detokenize {
		return &text{}
	}
	x := &text{d: newDecoder(t, prompt, s.SkipSpecial), stop: s.Stop, include: s.IncludeStop, min: s.MinTokens}
	if !s.IncludeStop {
		for _, stop := range s.Stop {
			x.hold = max(x.hold, utf8.RuneCountInString(stop)-1)
		}
	}
	return x
}

// add takes a token; ends says that it is a stop token, whose text is not
// shown unless stop strings are. It returns the stop string that the text now
// has, if any.
func (x *text) add(id vocab.Token, ends bool) (stop string, found bool) {
	x.tokens++
	if x.d == nil || ends && !x.include {
		return "", false
	}
	fresh := x.d.step(id)
	x.all += fresh
	if fresh == "" || x.tokens <= x.min {
		return "", false
	}
	return x.match(len(fresh))
}

// match looks for the stop string that is complete first in the last bytes;
// of several that end together the first in the list counts.
func (x *text) match(fresh int) (stop string, found bool) {
	best, at := 0, 0
	for _, s := range x.stop {
		from := max(0, len(x.all)-fresh-len(s)+1)
		i := strings.Index(x.all[from:], s)
		if i < 0 {
			continue
		}
		if end := from + i + len(s); !found || end < best {
			stop, best, at, found = s, end, from+i, true
		}
	}
	if !found {
		return "", false
	}
	if x.include {
		x.all = x.all[:best]
	} else {
		x.all = x.all[:at]
	}
	return stop, true
}

// next returns the text to show now: what was not shown yet, less what is held
// back unless the answer is finished.
func (x *text) next(finished bool) string {
	end := len(x.all)
	if !finished {
		for range x.hold {
			_, n := utf8.DecodeLastRuneInString(x.all[:end])
			end -= n
		}
	}
	if end <= x.given {
		return ""
	}
	fresh := x.all[x.given:end]
	x.given = end
	return fresh
}

// names gives the tokens of a row their texts. A token that is only a part of
// a character gets what it completes together with the tokens before it, "" if
// nothing.
func names(t *lm.Tokenizer, row vllm.Row, before []vocab.Token) {
	for i := range row {
		text := t.Decode([]vocab.Token{vocab.Token(row[i].ID)}, false)
		if strings.HasSuffix(text, replacement) {
			text = completed(t, vocab.Token(row[i].ID), before[max(0, len(before)-4):])
		}
		row[i].Text = &text
	}
}

func completed(t *lm.Tokenizer, id vocab.Token, before []vocab.Token) string {
	for n := 1; n <= len(before); n++ {
		context := before[len(before)-n:]
		full := t.Decode(append(append([]vocab.Token(nil), context...), id), false)
		if strings.HasSuffix(full, replacement) {
			continue
		}
		clean := len(context)
		for clean > 0 && strings.HasSuffix(t.Decode(context[clean-1:clean], false), replacement) {
			clean--
		}
		prefix := t.Decode(context[:clean], false)
		if strings.HasPrefix(full, prefix) {
			return full[len(prefix):]
		}
		i := 0
		for i < len(prefix) && i < len(full) && prefix[i] == full[i] {
			i++
		}
		return full[i:]
	}
	return ""
}
