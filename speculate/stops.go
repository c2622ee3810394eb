package speculate

import "strings"

// stops finds stop strings in growing text. It is a value: a copy of it is a
// state to go back to.
//
// The rule is vLLM's (vllm/v1/engine/detokenizer.py): after each token the
// stop strings are tried in the request's order; the first that occurs with
// its end in the new text wins, and the text ends before it (or after it, with
// include). Held back is only what may still become a stop string.
type stops struct {
	list    []string
	include bool
	// tail is the end of the text, long enough to hold any stop string but its
	// last byte; its last held bytes are not shown yet.
	tail string
	held int
}

// feed appends a token's text. It returns what may be shown now; found is the
// stop string that ended the text, empty if none did.
func (s *stops) feed(text string) (show, found string) {
	if len(s.list) == 0 {
		return text, ""
	}
	whole := s.tail + text
	for _, stop := range s.list {
		from := max(0, len(s.tail)-len(stop)+1)
		i := strings.Index(whole[from:], stop)
		if i < 0 {
			continue
		}
		end := from + i
		if s.include {
			end += len(stop)
		}
		shown := len(s.tail) - s.held
		s.tail, s.held = "", 0
		return whole[min(shown, end):end], stop
	}
	return s.keep(whole), ""
}

// skip appends text in which stop strings do not count yet (min_tokens).
func (s *stops) skip(text string) string {
	if len(s.list) == 0 {
		return text
	}
	return s.keep(s.tail + text)
}

// keep holds back what may become a stop string and returns the rest that was
// not shown yet.
func (s *stops) keep(whole string) string {
	shown := len(s.tail) - s.held
	hold, longest := 0, 0
	for _, stop := range s.list {
		longest = max(longest, len(stop))
		if s.include {
			continue
		}
		for n := min(len(stop)-1, len(whole)); n > hold; n-- {
			if strings.HasSuffix(whole, stop[:n]) {
				hold = n
			}
		}
	}
	// What was shown stays shown.
	hold = min(hold, len(whole)-shown)
	show := whole[shown : len(whole)-hold]
	keep := min(len(whole), max(longest-1, hold))
	s.tail, s.held = whole[len(whole)-keep:], hold
	return show
}

// flush returns what was held back: the text is over and no stop string came.
func (s *stops) flush() string {
	held := s.tail[len(s.tail)-s.held:]
	s.held = 0
	return held
}
