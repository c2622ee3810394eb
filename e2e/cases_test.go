//go:build e2e

package e2e

import (
	"fmt"
	"strings"
)

// a prompt is one request and what it is there for.
type prompt struct {
	name string
	chat bool
	body map[string]any
}

func (p *prompt) path() string {
	if p.chat {
		return "/v1/chat/completions"
	}
	return "/v1/completions"
}

type message = map[string]string

func say(texts ...string) []message {
	var m []message
	for i, text := range texts {
		m = append(m, message{"role": [2]string{"user", "assistant"}[i%2], "content": text})
	}
	return m
}

func system(text string, rest []message) []message {
	return append([]message{{"role": "system", "content": text}}, rest...)
}

// with adds fields, given as name, value, …, to a body.
func with(body map[string]any, fields []any) map[string]any {
	for i := 0; i < len(fields); i += 2 {
		body[fields[i].(string)] = fields[i+1]
	}
	return body
}

func chat(name string, m []message, fields ...any) prompt {
	return prompt{name, true, with(map[string]any{"messages": m, "temperature": 0, "max_tokens": 200}, fields)}
}

func plain(name string, text any, fields ...any) prompt {
	return prompt{name, false, with(map[string]any{"prompt": text, "temperature": 0, "max_tokens": 120}, fields)}
}

// asks writes a conversation as the models' template does.
func asks(question string) string { return "<|user|>\n" + question + "\n<|assistant|>\n" }

// story writes one of a family of stories in the words that the models know.
func story(n int) string {
	pick := func(list string) string { f := strings.Split(list, ","); return f[n%len(f)] }
	name, friend := pick("Mia,Leo,Ada,Tom,Nia"), pick("Iris,Hugo,Tara")
	animal, other := pick("fox,owl,bear,otter,goat,wolf,crow"), pick("hedgehog,duck,sheep,mouse")
	place, thing := pick("old mill,lighthouse,harbour,river"), pick("silver key,blue lantern,torn map")
	return fmt.Sprintf(`Once upon a time there was a %s %s named %s. %s lived near the %s and knew every path around it. One morning %s found a %s lying in the grass. "Whose %s is this?" %s asked. So %s went to ask %s the %s, who lived nearby. %s looked at the %s for a long time and smiled. Together they walked until the sun went down.

At the %s the keeper was already waiting for them. %s gave back the %s and got a warm supper in return. From that day on, %s and %s were best friends.`,
		pick("curious,brave,shy,patient,clever,gentle"), animal, name, name, place, name, thing, thing, name, name, friend, other, friend, thing, place, name, thing, name, friend)
}

// talk is a conversation of several stories, to have a long context.
func talk(turns int, end string) []message {
	var texts []string
	for n := range turns {
		texts = append(texts, "Repeat this text:\n\n"+story(n+3), story(n+3))
	}
	return say(append(texts, end)...)
}

// greedy are the prompts whose answers are compared.
func greedy() []prompt {
	japanese := []int{1, 203, 1151, 1467, 315, 2017, 18, 203, 2, 203} // Say hello in Japanese.
	return []prompt{
		// Chats of many kinds.
		chat("hello", say("Hello")),
		chat("sum", say("What is 12 plus 7?")),
		chat("think", say("Think first: what is 17 plus 26?")),
		chat("table", say("Write the multiplication table of 8.")),
		chat("count", say("Count from 12 to 30.")),
		chat("months", say("What are the months?")),
		chat("explain", say("What is speculative decoding?")),
		chat("poem", say("Write a short poem about the sea.")),
		chat("recipe", say("Give me a recipe for a cake with figs.")),
		chat("weather", say("Write a weather report for Lima on Sunday with rain and 14 degrees.")),
		chat("unknown", say("What does os.path.join do?")),
		chat("code go", say("Write a Go function that can add two numbers.")),
		chat("code python", say("Write a Python function that can divide two numbers.")),
		chat("struct", say("Write a Go struct for cherries.")),
		chat("json", say("Give me a JSON object for a user named Leo, aged 31, from Oslo.")),
		chat("turns", system("You are a friendly assistant. Answer briefly.", say("What is 3 times 9?", "3 times 9 is 27.", "Name 4 animals.", "1. fox\n2. owl\n3. cat\n4. bear", "Tell me a joke."))),
		chat("system", system("Answer in plain English.", say("What is a DGX Spark?"))),
		// Characters of several tokens, and their parts at the answer's end.
		chat("japanese", say("Say hello in Japanese.")),
		chat("greek", system("You are a helpful assistant.", say("How do you say hello in Greek?"))),
		chat("korean", say("Say hello in Korean.")),
		chat("emoji cut", say("Say hello in Japanese."), "max_tokens", 4),
		chat("emoji repeated", say("Repeat this text:\n\nКаша и чай! 👋🌊 Καλημέρα, こんにちは. naïve café – “quoted” …"), "max_tokens", 80),
		// Long answers.
		chat("story", say("Tell me a story about a fox named Mia.")),
		chat("long story", say("Write a long story about an owl."), "max_tokens", 400),
		chat("past the end", say("Tell me a bedtime story about Tom the goat."), "max_tokens", 400, "ignore_eos", true),
		plain("past the end, plain", asks("Say hello in Greek."), "max_tokens", 250, "ignore_eos", true, "skip_special_tokens", false),
		// Copying and editing.
		chat("copy", say("Repeat this text:\n\n"+story(0)), "max_tokens", 150, "ignore_eos", true),
		chat("replace", say("Replace owl by crow in this text:\n\n"+story(1)), "max_tokens", 150, "ignore_eos", true),
		chat("context 500", talk(1, "Say this again:\n\n"+story(2)), "max_tokens", 200, "ignore_eos", true),
		chat("context 1000", talk(3, "Tell me a story about a bear."), "max_tokens", 200, "ignore_eos", true),
		chat("context 1500", talk(5, "Write a Go function that can multiply two numbers."), "max_tokens", 300, "ignore_eos", true),
		// Plain completions.
		plain("text", "Once upon a time there was a"),
		plain("text chat", asks("Tell me a story about a duck called Kai.")),
		plain("ids", japanese, "max_tokens", 50),
		plain("ids cut", japanese, "max_tokens", 3),
		plain("default length", asks("List the planets."), "max_tokens", nil),
		plain("one token", asks("Hello"), "max_tokens", 1),
		plain("two tokens", asks("Hello"), "max_tokens", 2),
		// Limits and ends.
		chat("cut", say("Tell me a story about a wolf and a golden bell."), "max_tokens", 37),
		chat("cut otherwise", say("Explain the draft model."), "max_tokens", nil, "max_completion_tokens", 21),
		chat("stop", say("Write a long story about an owl."), "stop", []string{"over the door", "still hangs over"}),
		chat("stop text", say("Why is decoding slow?"), "stop", "memory."),
		chat("stop across tokens", say("Count from 3 to 25."), "stop", []string{", 1", "4, 15", "2, 13"}),
		chat("stop not met", say("What is the draft length?"), "stop", []string{"unheard of", "zero.."}),
		chat("stop included", say("Tell me a story about a mouse."), "stop", []string{"\n\n"}, "include_stop_str_in_output", true),
		plain("stop token", asks("Tell me a story about a hedgehog."), "stop_token_ids", []int{18}),
		plain("stop plain", "Once upon a time there was a shy", "stop", []string{"morning", "evening"}),
		plain("at least", asks("Hello"), "min_tokens", 60, "max_tokens", 80),
		// Fields that change the choice.
		chat("repetition", say("Write a long story about a turtle."), "repetition_penalty", 1.15, "max_tokens", 80),
		chat("bias", say("Tell me a story about a cat."), "logit_bias", map[string]int{"262": -100, "264": 2}, "max_tokens", 80),
	}
}

// sampled are requests whose answers are only looked at for their form.
func sampled() []prompt {
	hot := []any{"temperature", 0.8}
	return []prompt{
		chat("story", say("Tell me a story about a fox named Mia."), hot...),
		chat("recipe", say("Give me a recipe for a cake with figs."), append(hot, "top_p", 0.95)...),
		chat("code", say("Write a Go function that can add two numbers."), append(hot, "top_k", 20)...),
		chat("copy", say("Repeat this text:\n\n"+story(4)), append(hot, "min_p", 0.05)...),
		chat("context 1000", talk(3, "Say hello in Korean."), hot...),
		plain("text", "Once upon a time there was a", hot...),
		plain("ids", []int{1, 203, 1151, 1467, 315, 2017, 18, 203, 2, 203}, hot...),
		chat("stop", say("Write a long story about an owl."), append(hot, "stop", []string{"grass", "morning"})...),
	}
}

// tools is what the models were trained to call.
var tools = []any{map[string]any{"type": "function", "function": map[string]any{
	"name": "get_weather", "description": "Weather of a city",
	"parameters": map[string]any{"type": "object", "properties": map[string]any{
		"city": map[string]any{"type": "string"}, "day": map[string]any{"type": "string"}}, "required": []string{"city"}}}}}

// passed are requests that have to reach the target as they are, and why.
func passed() []struct {
	reason string
	prompt prompt
} {
	return []struct {
		reason string
		prompt prompt
	}{
		{"tools_unparsed", chat("tools", say("What is the weather in Oslo on Friday?"), "tools", tools)},
		{"tools_unparsed", chat("tools unused", say("What is 12 plus 7?"), "tools", tools)},
		{"logprobs", chat("logprobs", say("What is 12 plus 7?"), "logprobs", true, "top_logprobs", 2)},
		{"structured_output", chat("json", say("Write JSON for Ada, age 30, city Lima."), "response_format", map[string]string{"type": "json_object"})},
		{"penalties", chat("penalty", say("Hello"), "presence_penalty", 0.5)},
		{"n_gt_1", chat("several", say("Hello"), "n", 2)}, // an error of the target: greedy answers are all the same
		{"unknown_field", chat("unknown", say("Hello"), "a_field_of_tomorrow", true)},
		{"unknown_field", plain("ids in a list", [][]int{{1, 203, 1151, 1467, 315, 2017, 18, 203, 2, 203}}, "max_tokens", 50)}, // a shape that is not read
	}
}
