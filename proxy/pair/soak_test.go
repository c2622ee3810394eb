package pair_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"paceline/proxy/plan"
	"paceline/simulate"
	"paceline/speculate"
)

// TestManyStreams keeps 500 clients streaming at a time (PACELINE_SOAK says for
// how long, make bench for 60 s), some of which leave in the middle: no answer
// fails, and afterwards nothing is left of them.
func TestManyStreams(t *testing.T) {
	const clients = 500
	runFor := 3 * time.Second
	if v := os.Getenv("PACELINE_SOAK"); v != "" {
		var err error
		if runFor, err = time.ParseDuration(v); err != nil {
			t.Fatal("PACELINE_SOAK: ", err)
		}
	}
	e := startEngines(t, simulate.Options{MaxRunning: clients})
	var rounds counter
	url := startProxy(t, e, plan.Auto, true, func() speculate.Controller { return &always{4, &rounds} })
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	client := &http.Client{Transport: transport}
	before, long := runtime.NumGoroutine(), runFor >= 30*time.Second

	ctx, cancel := context.WithTimeout(t.Context(), runFor)
	defer cancel()
	var answers, left, tokens atomic.Int64
	var half atomic.Uint64 // heap in use in the middle of the run
	var busy atomic.Int64  // goroutines then
	time.AfterFunc(runFor/2, func() { half.Store(heap()); busy.Store(int64(runtime.NumGoroutine())) })
	qs := queries(64)
	var wait sync.WaitGroup
	for c := range clients {
		wait.Go(func() {
			r := rand.New(rand.NewPCG(9, uint64(c)))
			for i := c; ctx.Err() == nil; i++ {
				leave := r.IntN(16) == 0
				a, err := askWith(context.WithoutCancel(ctx), client, url, qs[i%len(qs)], leave)
				switch {
				case err == nil && leave:
					left.Add(1)
				case err != nil:
					t.Errorf("client %d: %v", c, err)
					return
				default:
					answers.Add(1)
					tokens.Add(int64(a.Completion))
				}
			}
		})
	}
	wait.Wait()
	end := heap()
	transport.CloseIdleConnections()
	quiet := func() string {
		switch s := e.target.Stats(); {
		case s.Running+s.Waiting+e.draft.Stats().Running > 0:
			return fmt.Sprintf("%d sequences are running", s.Running+s.Waiting)
		case long && runtime.NumGoroutine() > before+16:
			return fmt.Sprintf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
		return ""
	}
	// Idle connections live 5 s, idle workers of the HTTP servers 10 to 20 s: a
	// short run does not wait for that.
	for deadline := time.Now().Add(40 * time.Second); quiet() != "" && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) // for what the last clients left
	}
	if why := quiet(); why != "" {
		t.Errorf("after the last answer: %s\n%s", why, stacks())
	}
	t.Logf("%d clients for %v: %d answers with %d tokens, %d left early; %d rounds, %d of %d drafted tokens accepted; heap %d MiB at half time, %d MiB at the end; goroutines %d before, %d at half time, %d after",
		clients, runFor, answers.Load(), tokens.Load(), left.Load(), rounds.n.Load(), rounds.accepted.Load(), rounds.drafted.Load(), half.Load()>>20, end>>20, before, busy.Load(), runtime.NumGoroutine())
	if answers.Load() < clients/2 {
		t.Errorf("only %d answers", answers.Load())
	}
	if long && end > half.Load()*5/4+16<<20 {
		t.Errorf("the heap grew from %d MiB at half time to %d MiB", half.Load()>>20, end>>20)
	}
}

// askWith streams an answer; a client that leaves reads the first bytes only.
func askWith(ctx context.Context, client *http.Client, url string, q query, leave bool) (answer, error) {
	if !leave {
		return askBy(ctx, client, url, q, true)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := newRequest(ctx, url, q, true)
	if err != nil {
		return answer{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return answer{}, errors.New(resp.Status)
	}
	_, err = resp.Body.Read(make([]byte, 64))
	return answer{}, err
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func stacks() string {
	b := make([]byte, 1<<20)
	all := strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n")
	return strings.Join(all[:min(len(all), 12)], "\n\n")
}
