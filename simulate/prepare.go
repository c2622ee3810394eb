package simulate

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"paceline/simulate/vllm"
	"paceline/vocab"
)

// prompt is one prompt of a request, as ids.
type prompt struct {
	ids   []int64
	text  string // what was tokenised, "" for ids
	limit int    // new tokens at most
}

// tokenise turns a text into ids and refuses what is too long.
func (s *Server) tokenise(p vllm.Prompt) (prompt, *vllm.Error) {
	context := s.o.MaxModelLen
	if !p.IsText {
		if len(p.IDs) > context {
			return prompt{}, vllm.TooLong(len(p.IDs), context, true)
		}
		return prompt{ids: p.IDs}, nil
	}
	if !utf8.ValidString(p.Text) {
		return prompt{}, vllm.BadRequest("TextEncodeInput must be Union[TextInputSequence, Tuple[InputSequence, InputSequence]]")
	}
	if n, most := utf8.RuneCountInString(p.Text), context*s.longest; n > most {
		return prompt{}, vllm.TooManyCharacters(n, most, context)
	}
	ids := idsOf(s.o.Model.Tokenizer().Encode(p.Text, true))
	if len(ids) > context {
		return prompt{}, vllm.TooLong(len(ids), context, false)
	}
	return prompt{ids: ids, text: p.Text}, nil
}

func idsOf(tokens []vocab.Token) []int64 {
	ids := make([]int64, len(tokens))
	for i, t := range tokens {
		ids[i] = int64(t)
	}
	return ids
}

func tokensOf(ids ...int) []vocab.Token {
	t := make([]vocab.Token, len(ids))
	for i, id := range ids {
		t[i] = vocab.Token(id)
	}
	return t
}

// check is SamplingParams' own check for every prompt, with its limit.
func check(c *vllm.Common, prompts []prompt) *vllm.Error {
	for _, p := range prompts {
		c.Sampling.MaxTokens = p.limit
		if err := c.Sampling.Check(); err != nil {
			return err
		}
	}
	return nil
}

// verify is what the engine itself checks of a prompt.
func (s *Server) verify(sp *vllm.Sampling, p prompt) *vllm.Error {
	if err := sp.Verify(s.engine(), len(p.ids)); err != nil {
		return err
	}
	if len(p.ids) == 0 {
		return vllm.BadRequest("The decoder prompt cannot be empty")
	}
	if len(p.ids) >= s.o.MaxModelLen {
		return vllm.NoRoom(len(p.ids), s.o.MaxModelLen)
	}
	return vllm.CheckTokens(p.ids, s.o.Model.Config().VocabSize)
}

// build makes the sequences of a request: N of each prompt, in order.
func (s *Server) build(c *vllm.Common, prompts []prompt, f *active) (*generation, *vllm.Error) {
	for _, p := range prompts {
		if err := s.verify(&c.Sampling, p); err != nil {
			return nil, err
		}
	}
	bad, err := s.badWords(c.Sampling.BadWords)
	if err != nil {
		return nil, err
	}
	g := newGeneration(len(prompts) * c.Sampling.N)
	g.merge = s.o.MergeChunks
	for _, p := range prompts {
		for choice := range c.Sampling.N {
			sp := c.Sampling
			q := &sequence{
				g: g, index: len(g.seqs), tok: s.o.Model.Tokenizer(), prompt: vllm.Tokens(p.ids), salt: c.CacheSalt,
				s: &sp, limit: min(p.limit, s.o.MaxModelLen-len(p.ids)), bad: bad, params: newParams(&sp), lying: f.lying(),
			}
			if sp.Seed != nil {
				seed := *sp.Seed + int64(choice)
				sp.Seed = &seed
				q.noise = rand.New(rand.NewPCG(uint64(seed), 0))
			}
			q.text = newText(q.tok, q.prompt, &sp)
			s.setEnds(q)
			g.seqs = append(g.seqs, q)
		}
	}
	return g, nil
}

// setEnds fills in what ends the answer: the tokenizer's own EOS, which is no
// stop reason, the model's further ones, and the request's.
func (s *Server) setEnds(q *sequence) {
	q.stops = vllm.Tokens(q.s.StopTokenIDs)
	q.banned = append(q.banned, q.stops...)
	for i, id := range s.o.EOS {
		q.banned = append(q.banned, id)
		switch {
		case q.s.IgnoreEOS:
		case i == 0:
			q.eos, q.hasEOS = id, true
		default:
			q.stops = append(q.stops, id)
		}
	}
}

// badWords are the token sequences that may not be completed: each word as it
// is and, if that has as many tokens and another first one, after a space.
func (s *Server) badWords(words []string) ([][]vocab.Token, *vllm.Error) {
	var out [][]vocab.Token
	for _, word := range words {
		word = strings.TrimLeftFunc(word, unicode.IsSpace)
		plain := s.o.Model.Tokenizer().Encode(word, true)
		if len(plain) == 0 {
			return nil, vllm.BadRequest("bad_words entries must tokenize to at least one token.")
		}
		out = append(out, plain)
		if spaced := s.o.Model.Tokenizer().Encode(" "+word, true); len(spaced) == len(plain) && spaced[0] != plain[0] {
			out = append(out, spaced)
		}
	}
	return out, nil
}

// track makes a request's sequences known by their ids, one a prompt, for
// abort_requests.
func (s *Server) track(g *generation, ids []string) (untrack func()) {
	n := len(g.seqs) / len(ids)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, id := range ids {
		s.live[id] = append(s.live[id], g.seqs[i*n:(i+1)*n]...)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, id := range ids {
			s.live[id] = slices.DeleteFunc(s.live[id], func(q *sequence) bool { return q.g == g })
			if len(s.live[id]) == 0 {
				delete(s.live, id)
			}
		}
	}
}

func pointer[T any](v T) *T { return &v }

func unix() int64 { return time.Now().Unix() }
