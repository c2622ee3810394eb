package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Events returns the data of each event of a stream, without [DONE], and
// whether it ended with that.
func Events(stream []byte) (events [][]byte, done bool) {
	for event := range bytes.SplitSeq(stream, []byte("\n\n")) {
		data, ok := bytes.CutPrefix(event, []byte("data: "))
		switch {
		case !ok:
		case string(data) == "[DONE]":
			done = true
		case json.Valid(data): // the last one may be cut
			events = append(events, data)
		}
	}
	return events, done
}

// engineRequest is what a recount reads of a request to an engine.
type engineRequest struct {
	Stream    bool            `json:"stream"`
	MaxTokens int             `json:"max_tokens"`
	Prompt    json.RawMessage `json:"prompt"`
	TokenIDs  []int           `json:"token_ids"`
	Sampling  struct {
		PromptLogprobs *int `json:"prompt_logprobs"`
	} `json:"sampling_params"`
}

// prompts returns the token-id prompts of a completions request.
func (r *engineRequest) prompts() [][]int {
	var one []int
	if json.Unmarshal(r.Prompt, &one) == nil && len(one) > 0 {
		return [][]int{one}
	}
	var many [][]int
	if json.Unmarshal(r.Prompt, &many) == nil {
		return many
	}
	return nil
}

type engineChoice struct {
	Index    int     `json:"index"`
	Finish   string  `json:"finish_reason"`
	Prompt   []int   `json:"prompt_token_ids"`
	TokenIDs []int   `json:"token_ids"`
	Logprobs *labels `json:"logprobs"`
}

// labels are a completion's log-probabilities with return_tokens_as_token_ids.
type labels struct {
	Tokens []string `json:"tokens"`
}

// ids returns the tokens of a choice, from whichever field has them.
func (c *engineChoice) ids() []int {
	if c.TokenIDs != nil || c.Logprobs == nil {
		return c.TokenIDs
	}
	var ids []int
	for _, label := range c.Logprobs.Tokens {
		id, err := strconv.Atoi(strings.TrimPrefix(label, "token_id:"))
		if err != nil {
			return nil
		}
		ids = append(ids, id)
	}
	return ids
}

type engineAnswer struct {
	Choices []engineChoice `json:"choices"`
	Prompt  []int          `json:"prompt_token_ids"`
	Rows    []row          `json:"prompt_logprobs"`
	Usage   struct {
		Details struct {
			Cached *int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	} `json:"usage"`
}

// row holds log-probabilities by token id.
type row map[string]struct {
	Logprob float64 `json:"logprob"`
}

// best is the lowest id among the most likely ones.
func (r row) best() (int, error) {
	best, top := -1, 0.0
	for label, entry := range r {
		id, err := strconv.Atoi(label)
		if err != nil || id < 0 {
			return 0, fmt.Errorf("a row lists token %q", label)
		}
		if best < 0 || entry.Logprob > top || entry.Logprob == top && id < best {
			best, top = id, entry.Logprob
		}
	}
	if best < 0 {
		return 0, fmt.Errorf("an empty row")
	}
	return best, nil
}

// answer reads what an engine answered: one value, or the chunks of a stream
// put together, with the choices by index.
func (e *Exchange) answer() (engineAnswer, error) {
	var whole engineAnswer
	if !bytes.HasPrefix(e.Response, []byte("data:")) {
		err := json.Unmarshal(e.Response, &whole)
		slices.SortFunc(whole.Choices, func(a, b engineChoice) int { return a.Index - b.Index })
		return whole, err
	}
	var one engineChoice
	events, _ := Events(e.Response)
	for _, event := range events {
		var chunk engineAnswer
		if err := json.Unmarshal(event, &chunk); err != nil {
			return whole, err
		}
		if chunk.Prompt != nil {
			whole.Prompt = chunk.Prompt
		}
		for _, c := range chunk.Choices {
			if c.Prompt != nil {
				whole.Prompt = c.Prompt
			}
			one.TokenIDs = append(one.TokenIDs, c.ids()...)
			one.Finish = c.Finish
		}
	}
	whole.Choices = []engineChoice{one}
	return whole, nil
}
