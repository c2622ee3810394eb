package speculate

import (
	"fmt"
	"testing"
)

func TestTrimTakesBackWhatStandsBehindAStopString(t *testing.T) {
	f := func(n, plain, accepted int, rounds string) {
		t.Helper()
		x := Trace{Plain: 4} // 2 plain, a round of 3, a round of 4, 2 plain
		x.add(Round{At: 2, Drafted: 4, Accepted: 2, Emitted: 3})
		x.add(Round{At: 5, Drafted: 4, Accepted: 3, Emitted: 4})
		x.trim(n, 11)
		got := ""
		for _, r := range x.Rounds {
			got += fmt.Sprintf("%d/%d ", r.Accepted, r.Emitted)
		}
		if x.Plain != plain || x.Accepted != accepted || got != rounds {
			t.Errorf("trim(%d): %d plain, %d accepted, rounds %s; want %d, %d, %s", n, x.Plain, x.Accepted, got, plain, accepted, rounds)
		}
	}
	f(11, 4, 5, "2/3 3/4 ")
	f(10, 3, 5, "2/3 3/4 ")
	f(9, 2, 5, "2/3 3/4 ")
	f(8, 2, 5, "2/3 3/3 ")
	f(7, 2, 4, "2/3 2/2 ")
	f(6, 2, 3, "2/3 1/1 ")
}
