package vllm

import (
	"fmt"

	"github.com/tidwall/gjson"

	"paceline/engine"
	"paceline/vocab"
)

// Temperatures that vLLM rounds (SamplingParams.__post_init__): below the
// first it decodes greedily, below the second it takes the second.
const (
	greedyBelow    = 1e-5
	minTemperature = 1e-2
)

// completionTokens is what /v1/completions takes for max_tokens by default.
const completionTokens = 16

// object is a request's body by field. A field given twice is refused: vLLM
// takes the last, other readers the first.
type object map[string]gjson.Result

func fieldsOf(body gjson.Result) (object, error) {
	if !body.IsObject() {
		return nil, &engine.FieldError{Field: "request", Why: "not a JSON object"}
	}
	o := object{}
	var twice error
	body.ForEach(func(key, value gjson.Result) bool {
		name := key.String()
		if _, dup := o[name]; dup {
			twice = &engine.FieldError{Field: name, Why: "given twice"}
		}
		o[name] = value
		return twice == nil
	})
	return o, twice
}

// given returns a field that is there and not null.
func (o object) given(name string) (gjson.Result, bool) {
	v, ok := o[name]
	return v, ok && v.Type != gjson.Null
}

func (o object) number(name string, def float64) (v float64, given bool, err error) {
	r, ok := o.given(name)
	if !ok {
		return def, false, nil
	}
	if r.Type != gjson.Number {
		return 0, true, &engine.FieldError{Field: name, Why: "not a number"} // vLLM would take "0.5" too: then it passes through
	}
	return r.Num, true, nil
}

func (o object) count(name string) (n int, given bool, err error) {
	v, given, err := o.number(name, 0)
	if err == nil && given && (v != float64(int(v)) || v < 0) {
		err = &engine.FieldError{Field: name, Why: "not a count"}
	}
	return int(v), given, err
}

func (o object) flag(name string, def bool) (bool, error) {
	r, ok := o.given(name)
	switch {
	case !ok:
		return def, nil
	case r.Type == gjson.True || r.Type == gjson.False:
		return r.Bool(), nil
	}
	return false, &engine.FieldError{Field: name, Why: "not a boolean"}
}

// tokens reads a list of ids.
func tokens(name string, r gjson.Result, vocabSize int) ([]vocab.Token, error) {
	if !r.IsArray() {
		return nil, &engine.FieldError{Field: name, Why: "not a list"}
	}
	var ids []vocab.Token
	for _, v := range r.Array() {
		id := int64(v.Num)
		if v.Type != gjson.Number || v.Num != float64(id) || !inVocabulary(id, vocabSize) {
			return nil, &engine.FieldError{Field: name, Why: fmt.Sprintf("%.40s is not a token id", v.Raw)}
		}
		ids = append(ids, vocab.Token(id))
	}
	return ids, nil
}

// Effective works out what a request's sampling settings are once the target's
// defaults have filled what it leaves open. An error is a *engine.FieldError:
// such a request is to be passed through.
func Effective(caps *engine.Capabilities, chat bool, body gjson.Result) (engine.Settings, error) {
	o, err := fieldsOf(body)
	if err != nil {
		return engine.Settings{}, err
	}
	s := engine.Settings{EOS: caps.EOS}
	for _, f := range []func() error{
		func() error { return setDrawing(&s, o, caps) },
		func() error { return setLength(&s, o, caps, chat) },
		func() error { return setEnds(&s, o, caps) },
		func() error { return checkPrompt(o, chat, caps.VocabSize) },
	} {
		if err := f(); err != nil {
			return engine.Settings{}, err
		}
	}
	return s, nil
}

// setDrawing sets how a token is drawn.
func setDrawing(s *engine.Settings, o object, caps *engine.Capabilities) error {
	server := object{}
	if caps.Defaults != nil {
		server, _ = fieldsOf(gjson.ParseBytes(*caps.Defaults))
	}
	s.Known = true
	effective := func(name string, def float64) (v float64, known bool, err error) {
		fromServer, _, err := server.number(name, def)
		if err != nil {
			return 0, false, err
		}
		v, given, err := o.number(name, fromServer)
		return v, given || caps.Defaults != nil, err
	}
	temperature, known, err := effective("temperature", 1)
	if err != nil {
		return err
	}
	switch {
	case temperature < greedyBelow:
		temperature = 0
	case temperature < minTemperature:
		temperature = minTemperature
	}
	s.Temperature, s.Known = temperature, known
	for name, neutral := range map[string]float64{"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0} {
		v, known, err := effective(name, neutral)
		if err != nil {
			return err
		}
		_, given := o.given(name)
		if !given && v != neutral && name != "repetition_penalty" {
			return &engine.FieldError{Field: name, Why: fmt.Sprintf("the server's default is %v", v)}
		}
		s.Known = s.Known && (known || name != "repetition_penalty") && (given || v == neutral)
	}
	if temperature == 0 {
		return nil // the others have no effect
	}
	for name, def := range map[string]float64{"top_p": 1, "top_k": 0, "min_p": 0} {
		_, known, err := effective(name, def)
		if err != nil {
			return err
		}
		s.Known = s.Known && known
	}
	return nil
}

// setLength sets how long the answer may become (vllm get_max_tokens).
func setLength(s *engine.Settings, o object, caps *engine.Capabilities, chat bool) error {
	limit, given, err := o.count("max_tokens")
	if err != nil {
		return err
	}
	if chat {
		newer, ok, err := o.count("max_completion_tokens")
		if err != nil {
			return err
		}
		if ok {
			limit, given = newer, true
		}
		if caps.Defaults != nil && !given {
			if v := gjson.GetBytes(*caps.Defaults, "max_tokens"); v.Exists() {
				limit, given = int(v.Int()), true
			}
		}
	} else if !given {
		limit, given = completionTokens, true
	}
	if given && limit < 1 {
		return &engine.FieldError{Field: "max_tokens", Why: "must be at least 1"}
	}
	if caps.MaxTokens > 0 && (!given || limit > caps.MaxTokens) {
		limit = caps.MaxTokens
	}
	s.MaxTokens = limit
	s.MinTokens, _, err = o.count("min_tokens")
	if err == nil && s.MaxTokens > 0 && s.MinTokens > s.MaxTokens {
		err = &engine.FieldError{Field: "min_tokens", Why: "more than max_tokens"}
	}
	return err
}

// setEnds sets where the answer ends and what of the end shows.
func setEnds(s *engine.Settings, o object, caps *engine.Capabilities) (err error) {
	if r, ok := o.given("stop"); ok {
		list := []gjson.Result{r}
		if r.IsArray() {
			list = r.Array()
		}
		for _, v := range list {
			if v.Type != gjson.String || v.Str == "" {
				return &engine.FieldError{Field: "stop", Why: "neither a text nor a list of texts"}
			}
			s.Stop = append(s.Stop, v.Str)
		}
	}
	if r, ok := o.given("stop_token_ids"); ok {
		if s.StopTokenIDs, err = tokens("stop_token_ids", r, caps.VocabSize); err != nil {
			return err
		}
	}
	if caps.Defaults != nil {
		server, err := tokens("stop_token_ids", gjson.GetBytes(*caps.Defaults, "stop_token_ids"), caps.VocabSize)
		if err == nil {
			s.StopTokenIDs = append(s.StopTokenIDs, server...)
		}
	}
	if s.IncludeStop, err = o.flag("include_stop_str_in_output", false); err != nil {
		return err
	}
	if s.IgnoreEOS, err = o.flag("ignore_eos", false); err != nil {
		return err
	}
	s.SkipSpecial, err = o.flag("skip_special_tokens", true)
	return err
}

// checkPrompt refuses what is not exactly one prompt.
func checkPrompt(o object, chat bool, vocabSize int) error {
	if chat {
		if r, ok := o.given("messages"); !ok || !r.IsArray() {
			return &engine.FieldError{Field: "messages", Why: "not a list"}
		}
		return nil
	}
	r, ok := o.given("prompt")
	if !ok || r.Type != gjson.String && !r.IsArray() {
		return &engine.FieldError{Field: "prompt", Why: "neither text nor token ids"}
	}
	if r.IsArray() {
		if _, err := tokens("prompt", r, vocabSize); err != nil {
			return err
		}
	}
	return nil
}
