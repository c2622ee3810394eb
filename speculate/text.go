package speculate

import (
	"context"
	"fmt"
	"time"

	"paceline/vocab"
)

// display turns commits into pieces: text that is complete characters, ends at
// a stop string, and holds back what may become one. It has no I/O.
type display struct {
	text  *vocab.Text // nil until the prompt is known
	stops stops
	min   int // stop strings count in answers longer than this
	known int // tokens of the answer whose text is known
	total int // tokens of the answer that show
	// before is the text as it was when known tokens were in it; kept only for
	// the search of stop strings.
	before *vocab.Text
}

// span is text that tokens known..known+n of the answer completed.
type span struct {
	text string
	n    int
}

// add takes a commit; what can be shown at once comes back as a span.
func (d *display) add(c Commit) span {
	visible := c.Tokens[:len(c.Tokens)-c.Hidden]
	d.total += len(visible)
	d.remember()
	return d.fresh(d.text.Add(visible, c.Text, c.Source, c.Whole))
}

// fresh is text that the tokens that have become known made visible.
func (d *display) fresh(text string) span {
	return span{text, d.total - d.text.Pending() - d.known}
}

func (d *display) remember() {
	if len(d.stops.list) > 0 {
		d.before = d.text.Known()
	}
}

func (d *display) answer(base, window string) span {
	d.remember()
	return d.fresh(d.text.Answer(base, window))
}

// feed puts a span through the stop strings. sure is false when the span has
// several tokens and ends the text, or crosses min_tokens: then nothing was
// done, and its tokens have to be fed one at a time.
func (d *display) feed(s span) (show, stop string, sure bool) {
	if len(d.stops.list) == 0 {
		d.known += s.n
		return s.text, "", true
	}
	if s.n > 1 && d.known < d.min && d.known+s.n > d.min {
		return "", "", false
	}
	trial := d.stops
	if d.known+s.n <= d.min {
		show = trial.skip(s.text)
	} else {
		show, stop = trial.feed(s.text)
	}
	if stop != "" && s.n > 1 {
		return "", "", false
	}
	d.stops = trial
	d.known += s.n
	return show, stop, true
}

// committed takes tokens into the text and shows what can be shown at once.
func (g *generation) committed(c Commit) error {
	if g.firstToken == 0 {
		g.firstToken = max(1, time.Since(g.began))
	}
	if g.display.text == nil { // an engine without ids: its own text is all there is
		show, stop := g.display.stops.feed(c.Text)
		g.stopped(stop, len(g.session.Answer()))
		return g.piece(show, c.Tokens)
	}
	g.context = append(g.context, c.Tokens...)
	return g.show(g.display.add(c))
}

// resolve asks for the text of tokens whose text is not known yet: one
// question at a time, beside whatever else is going on.
func (g *generation) resolve() {
	if g.display.text == nil || g.decoding || g.stopString != "" {
		return
	}
	base, window, ok := g.display.text.Ask()
	if !ok {
		return
	}
	g.decoding = true
	g.call(func(err error) happening { return happening{decoded: &decoded{err: err}} }, func() {
		var d decoded
		if d.base, d.err = g.decode(base); d.err == nil {
			d.window, d.err = g.decode(window)
		}
		g.send(happening{decoded: &d})
	})
}

// decodePatience bounds one question for text.
const decodePatience = 10 * time.Second

// decode asks the target for a text, patiently: the tokens are committed, and
// nothing else can say what they mean.
func (g *generation) decode(tokens []vocab.Token) (string, error) {
	if len(tokens) == 0 {
		return "", nil
	}
	var err error
	for wait := 50 * time.Millisecond; ; wait *= 4 {
		var text string
		ctx, cancel := context.WithTimeout(g.ctx, decodePatience)
		text, err = g.target.Decode(ctx, tokens)
		cancel()
		if err == nil {
			return text, nil
		}
		if wait > time.Second || !sleep(g.ctx, wait) {
			return "", fmt.Errorf("cannot get the text of the answer's tokens: %w", err)
		}
	}
}

// sleep waits, or returns false because ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// took takes a decoded text.
func (g *generation) took(d decoded) error {
	g.decoding = false
	if d.err != nil {
		return d.err
	}
	return g.show(g.display.answer(d.base, d.window))
}

// show emits a span, up to a stop string if it holds one.
func (g *generation) show(s span) error {
	if s.n == 0 && s.text == "" || g.stopString != "" {
		return nil
	}
	from := len(g.session.Prompt()) + g.display.known
	tokens := g.context[from : from+s.n]
	show, stop, sure := g.display.feed(s)
	if !sure {
		return g.showOneByOne(s.n)
	}
	g.stopped(stop, g.display.known)
	return g.piece(show, tokens)
}

// showOneByOne finds the token that completed a stop string among n tokens
// whose text came in one piece: it decodes them one after the other. This
// happens once, at the end of an answer (or at the border of min_tokens).
func (g *generation) showOneByOne(n int) error {
	from := len(g.session.Prompt()) + g.display.known
	text := g.display.before
	var shown string
	i := from
	for ; i < from+n && g.stopString == ""; i++ {
		text.Add(g.context[i:i+1], "", 0, false)
		base, window, _ := text.Ask()
		b, err := g.decode(base)
		if err != nil {
			return err
		}
		w, err := g.decode(window)
		if err != nil {
			return err
		}
		show, stop, _ := g.display.feed(span{text.Answer(b, w), 1})
		shown += show
		g.stopped(stop, g.display.known)
	}
	return g.piece(shown, g.context[from:i])
}

// stopped ends the answer after n tokens if a stop string was found.
func (g *generation) stopped(stop string, n int) {
	if stop != "" {
		g.stopString = stop
		g.session.Step(StopFound{Tokens: n})
	}
}

func (g *generation) piece(text string, tokens []vocab.Token) error {
	if !g.emitted {
		// Nothing is out before there is text: the target may turn out to make
		// something else of the answer.
		g.unsaid = append(g.unsaid, tokens...)
		if text == "" {
			return nil
		}
		tokens, g.emitted = g.unsaid, true
	}
	g.refused = g.emit(Piece{Text: text, Tokens: tokens})
	return g.refused
}

// flush emits what was held back for a stop string that never came.
func (g *generation) flush() error {
	if held := g.display.stops.flush(); held != "" && g.stopString == "" {
		return g.piece(held, nil)
	}
	return nil
}
