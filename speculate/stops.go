package speculate

import "strings"

// stops finds stop strings in growing text. It is a value: a copy of it is a
// state to go back to.
//
// The rule is vLLM's (check_stop_strings in vllm/v1/engine/detokenizer.py,
// 0.32): of the matches that end in new text the one that is complete first
// wins, the request's order among equals, and the text ends before it (or
// behind it, with include). That is the result of appending one token at a
// time, however many come at once. Held back is only what may still become a
// stop string.
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
	first := len(whole) + 1
	for _, stop := range s.list {
		from := max(0, len(s.tail)-len(stop)+1)
		if i := strings.Index(whole[from:], stop); i >= 0 && from+i+len(stop) < first {
			first, found = from+i+len(stop), stop
		}
	}
	if found != "" {
		end, shown := first, len(s.tail)-s.held
		if !s.include {
			end -= len(found)
		}
		s.tail, s.held = "", 0
		return whole[min(shown, end):end], found
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
