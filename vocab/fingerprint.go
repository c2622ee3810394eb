package vocab

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// fingerprintTexts are tokenised to tell vocabularies apart: scripts, spaces,
// digits, code, rare characters and the special tokens of common models. Two
// vocabularies that agree on all of them are taken to be one. Change them only
// together with fingerprintVersion.
var fingerprintTexts = []string{
	"The quick brown fox jumps over the lazy dog. It's 12,345.67 or 2026-11-23T21:26:00Z, isn't it?",
	"Übergrößenträger naïve façade Σωκράτης Москва العربية עברית हिन्दी ภาษาไทย 日本語の文章 中文分词 한국어 👩‍👩‍👧‍👦 🇩🇪 ∑∫√≠ \u200b\u00a0x",
	"func main() {\n\tfor i := 0; i < 10; i++ {\n\t\tfmt.Println(\"%d\\n\", i)\n\t}\n}\n\n\n    if x == None:        return [1, 2, 3]\r\n",
	"supercalifragilisticexpialidocious antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis qwrtzpsdfg",
	"<s></s><|endoftext|><|im_start|>user<|im_end|><|eot_id|><|start_header_id|><start_of_turn><end_of_turn><pad><unk>[INST][/INST]" +
		"<|user|><|assistant|><|system|><|end|><think></think><tool_call></tool_call><｜begin▁of▁sentence｜><｜end▁of▁sentence｜><｜User｜>",
}

const fingerprintVersion = "1"

// Fingerprint identifies a vocabulary by how it splits fixed texts. encode
// returns the ids of a text without anything added around it. Endpoints with
// the same fingerprint may exchange ids as they are; the sizes are compared
// apart, because models pad the same vocabulary to different sizes.
func Fingerprint(encode func(text string) ([]Token, error)) (string, error) {
	h := sha256.New()
	var line []byte
	for _, text := range fingerprintTexts {
		ids, err := encode(text)
		if err != nil {
			return "", fmt.Errorf("cannot take the vocabulary's fingerprint: %w", err)
		}
		if len(ids) == 0 {
			return "", fmt.Errorf("cannot take the vocabulary's fingerprint: no tokens for a text of %d bytes", len(text))
		}
		line = append(AppendIDs(line[:0], ids), '\n')
		h.Write(line)
	}
	return fingerprintVersion + ":" + hex.EncodeToString(h.Sum(nil)[:12]), nil
}
