package speculate

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestStops(t *testing.T) {
	f := func(list []string, include bool, feed []string, want []string, found string) {
		t.Helper()
		s := stops{list: list, include: include}
		for i, text := range feed {
			show, stop := s.feed(text)
			if show != want[i] {
				t.Errorf("stops %q: text %d of %q shows %q, want %q", list, i, feed, show, want[i])
			}
			if last := i == len(feed)-1; last && stop != found || !last && stop != "" {
				t.Errorf("stops %q: text %d of %q found %q", list, i, feed, stop)
			}
		}
	}
	L := func(s ...string) []string { return s }
	f(nil, false, L("a", "b"), L("a", "b"), "")
	f(L("end"), false, L("the e", "nd of"), L("the ", ""), "end")
	f(L("end"), false, L("the e", "n", "x"), L("the ", "", "enx"), "")
	f(L("end"), true, L("the e", "nd of"), L("the e", "nd"), "end")
	f(L("b", "ab"), false, L("xab"), L("xa"), "b") // the request's order decides
	f(L("ab", "b"), false, L("xab"), L("x"), "ab")
	f(L("a"), false, L("bab"), L("b"), "a")
	f(L("\n\n"), false, L("a\n", "\nb"), L("a", ""), "\n\n")
	f(L("aab"), false, L("a", "a", "a", "b"), L("", "", "a", ""), "aab")
}

// Shown and held text add up; what is shown ends where a stop string begins.
func TestStopsAgreeWithTheWholeText(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		list := rapid.SliceOfN(rapid.StringMatching(`[ab]{1,3}`), 0, 3).Draw(r, "stops")
		feed := rapid.SliceOfN(rapid.StringMatching(`[abc]{0,3}`), 0, 12).Draw(r, "feed")
		s, shown, found := stops{list: list}, "", ""
		var whole, want string
		for _, text := range feed {
			// the rule: append one byte at a time
			for n := 1; n <= len(text) && found == ""; n++ {
				for _, stop := range list {
					if found == "" && strings.HasSuffix(whole+text[:n], stop) {
						found = stop
						want = (whole + text)[:len(whole)+n-len(stop)]
					}
				}
			}
			whole += text
			show, stop := s.feed(text)
			shown += show
			if stop != found {
				r.Fatalf("found %q, want %q", stop, found)
			}
			if found != "" {
				if shown != want {
					r.Fatalf("shown %q, want %q", shown, want)
				}
				return
			}
			if !strings.HasPrefix(whole, shown) {
				r.Fatalf("shown %q of %q", shown, whole)
			}
		}
		if shown += s.flush(); shown != whole {
			r.Fatalf("shown %q, want %q", shown, whole)
		}
	})
}
