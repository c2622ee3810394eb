"""Writes testdata/reference.json: what Hugging Face's implementation does with the built-in models, in float32.

    python reference.py [models directory] [reference.json]

It holds the ids of some texts; for 21 chats the rendered text, the greedy continuation of target and draft (at
most 96 tokens) with the gap between the two best log-probabilities at every position, the five best of the first
12; and where the draft's first or second choice is the target's. Needs torch and transformers.
"""

import json
import pathlib
import sys

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent
TEXTS = [
    'Hello world',
    ' leading space',
    'tabs\tand\nnew lines\r\n',
    "don't stop, it's 42% of 3.14!",
    'こんにちは 👋 ¡Buenos días! Καλημέρα',
    'a\u0301 é ﬁ',
    '<|user|>\nhi\n<|assistant|>\n',
    '',
    '   ',
    'ABC' * 30,
    '0123456789',
    '{"a": [1, 2, {"b": null}]}',
    '\u0000\u0001\u007f',
    '😀😃👨‍👩‍👧‍👦',
]
QUESTIONS = [
    'Hello',
    'Who are you?',
    'What is speculative decoding?',
    'Tell me a story about a fox named Mia.',
    'Write a long story about an owl.',
    'What is 12 plus 7?',
    'Write the multiplication table of 8.',
    'Write a Go function that can add two numbers.',
    'Write a loop in Python that prints the numbers from 1 to 9.',
    'Give me a JSON object for a user named Leo, aged 31, from Oslo.',
    'List the planets.',
    'Say hello in Japanese.',
    'Give me a recipe for a cake with figs.',
    'Write a weather report for Lima on Sunday with rain and 14 degrees.',
    'What does os.path.join do?',
    'Write a short poem about the sea.',
    'Count from 12 to 30.',
    'Think first: what is 17 plus 26?',
    'Repeat this text:\n\nIris the goat found a silver key near the old mill. She gave it to Hugo, and they went'
    ' home together.',
    'Replace fox by owl in this text:\n\nOnce upon a time there was a shy fox named Max. Max lived by the river.',
]
CHATS = [[{'role': 'user', 'content': question}] for question in QUESTIONS] + [
    [
        {'role': 'system', 'content': 'You are a friendly assistant. Answer briefly.'},
        {'role': 'user', 'content': 'What is 3 times 9?'},
        {'role': 'assistant', 'content': '3 times 9 is 27.'},
        {'role': 'user', 'content': 'Say hello in Greek.'},
    ]
]


def best(log_probabilities, n):
    values, ids = log_probabilities.topk(n)
    return [[int(i), round(float(v), 4)] for i, v in zip(ids, values)]


def continuation(model, tokenizer, prompt):
    """What the model says greedily after the prompt's ids, and how sure it is."""
    options = {'max_new_tokens': 96, 'do_sample': False, 'eos_token_id': 0, 'pad_token_id': 0}
    with torch.no_grad():
        all_ids = model.generate(torch.tensor([prompt]), **options)[0].tolist()
        rows = model(torch.tensor([all_ids])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
    said = all_ids[len(prompt) :]
    return {
        'greedy': said,
        'text': tokenizer.decode(said, skip_special_tokens=False),
        'gap': [round(float(first - second), 3) for first, second in rows.topk(2).values],
        'top5': [best(row, 5) for row in rows[:12]],
    }


def agreement(draft, prompt, said):
    """1 or 2 where the draft's first or second choice is what was said, else 0."""
    with torch.no_grad():
        rows = draft(torch.tensor([prompt + said])).logits[0][len(prompt) - 1 : -1]
    choices = rows.topk(2).indices.tolist()
    return [1 if first == id else 2 if second == id else 0 for (first, second), id in zip(choices, said)]


def main():
    models_at = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / 'models'
    path = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else HERE.parent / 'testdata' / 'reference.json'
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(models_at / 'target')
    models = {name: LlamaForCausalLM.from_pretrained(models_at / name).float().eval() for name in ('target', 'draft')}

    def encode(text):
        return tokenizer(text, add_special_tokens=False).input_ids

    out = {'vocabulary': len(tokenizer), 'tokenize': [{'text': text, 'ids': encode(text)} for text in TEXTS], 'chats': []}
    for messages in CHATS:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        case = {'messages': messages, 'rendered': text, 'ids': encode(text)}
        for name, model in models.items():
            case[name] = continuation(model, tokenizer, case['ids'])
        case['agree'] = agreement(models['draft'], case['ids'], case['target']['greedy'])
        out['chats'].append(case)
    path.write_text(json.dumps(out, ensure_ascii=False, separators=(',', ':')), encoding='utf8')
    agree = [choice for case in out['chats'] for choice in case['agree']]
    near = sum(gap < 0.01 for case in out['chats'] for gap in case['target']['gap'])
    print(f'{len(agree)} tokens; the draft is right with its first choice {agree.count(1) / len(agree):.3f},', end=' ')
    print(f'with its second {agree.count(2) / len(agree):.3f}; {near} positions with a gap below .01')


if __name__ == '__main__':
    main()
