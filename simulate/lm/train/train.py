"""Trains a built-in model from corpus.txt and writes it in the Hugging Face layout, in float16.

    python train.py target 60
    python train.py draft 30 --teacher ../models/target

A model with a teacher learns the teacher's distribution instead of the text (distillation). The first call also
trains the tokeniser, tok.json, and tokenises the corpus, ids.pt; both are reused. Needs torch, transformers and
tokenizers. How good a model gets depends on the machine: training stops by the clock.
"""

import argparse
import os
import random
import time

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY, BATCH, WINDOW, RATE = 2048, 6, 512, 2e-3
SPECIAL = ['<|end|>', '<|user|>', '<|assistant|>', '<|system|>', '<|tool|>']
SHAPES = {
    'target': {
        'hidden_size': 192, 'intermediate_size': 512, 'num_hidden_layers': 3,
        'num_attention_heads': 6, 'num_key_value_heads': 3, 'head_dim': 32,
    },
    'draft': {
        'hidden_size': 64, 'intermediate_size': 176, 'num_hidden_layers': 1,
        'num_attention_heads': 2, 'num_key_value_heads': 2, 'head_dim': 32,
    },
    # A weaker draft, to compare drafts.
    'draft-b': {
        'hidden_size': 32, 'intermediate_size': 88, 'num_hidden_layers': 1,
        'num_attention_heads': 1, 'num_key_value_heads': 1, 'head_dim': 32,
    },
}
TEMPLATE = (
    "{% if tools %}<|system|>{{ '\\n' }}Tools:{{ '\\n' }}"
    "{% for t in tools %}{{ t | tojson }}{{ '\\n' }}{% endfor %}{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ '\\n' }}"
    "{% if m['content'] %}{{ m['content'] }}{% endif %}"
    "{% for t in m['tool_calls'] or [] %}<tool_call>{{ '\\n' }}"
    "{\"name\": \"{{ t['function']['name'] }}\", \"arguments\": "
    "{{ t['function']['arguments'] if t['function']['arguments'] is string"
    " else t['function']['arguments'] | tojson }}}"
    "{{ '\\n' }}</tool_call>{% endfor %}"
    "{% if m['role'] == 'assistant' %}<|end|>{% else %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{{ '\\n' }}{% endif %}"
)


def train_tokenizer(docs):
    """Byte-level BPE without a prefix space, the special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(docs, trainer)
    return tokenizer


def read_corpus(path):
    """Returns the tokeniser and all of the corpus as one row of ids."""
    with open(path, encoding='utf8') as file:
        docs = file.read().split('\n\x00\n')
    if not os.path.exists('tok.json'):
        train_tokenizer(docs).save('tok.json')
    tokenizer = Tokenizer.from_file('tok.json')
    if not os.path.exists('ids.pt'):
        ids = [i for encoding in tokenizer.encode_batch(docs) for i in encoding.ids]
        torch.save(torch.tensor(ids, dtype=torch.int32), 'ids.pt')
    return tokenizer, torch.load('ids.pt').long()


def new_model(name):
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, max_position_embeddings=2048, tie_word_embeddings=True, rms_norm_eps=1e-5,
            rope_theta=10000.0, bos_token_id=None, eos_token_id=0, pad_token_id=0, **SHAPES[name],
        )
    )


def loss_of(model, teacher, window):
    """Cross-entropy with the text, or the divergence from the teacher."""
    rows = window.shape[0] * WINDOW
    with torch.autocast('cpu', dtype=torch.bfloat16):
        logits = model(input_ids=window[:, :-1]).logits.float().reshape(rows, -1)
    if teacher is None:
        return functional.cross_entropy(logits, window[:, 1:].reshape(-1))
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        want = teacher(input_ids=window[:, :-1]).logits.float().reshape(rows, -1).log_softmax(-1)
    return functional.kl_div(logits.log_softmax(-1), want, log_target=True, reduction='batchmean')


def train(model, teacher, ids, minutes):
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.05)
    start, step = time.time(), 0
    while (done := (time.time() - start) / (minutes * 60)) < 1:
        for group in optimizer.param_groups:  # warm up, then fall to 5 %
            group['lr'] = RATE * min(1, (step + 1) / 100) * (1 - 0.95 * done)
        starts = torch.randint(0, len(ids) - WINDOW - 1, (BATCH,))
        loss = loss_of(model, teacher, torch.stack([ids[i : i + WINDOW + 1] for i in starts]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            print(step, round(time.time() - start), round(loss.item(), 3), flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument('name', choices=SHAPES)
    arguments.add_argument('minutes', type=float)
    arguments.add_argument('--teacher', help='directory of the model to distil from')
    arguments.add_argument('--corpus', default='corpus.txt')
    arguments.add_argument('--out', help='default: models/NAME')
    args = arguments.parse_args()

    torch.manual_seed(0)
    random.seed(0)
    torch.set_num_threads(int(os.environ.get('THREADS', '2')))
    tokenizer, ids = read_corpus(args.corpus)
    model = new_model(args.name)
    teacher = LlamaForCausalLM.from_pretrained(args.teacher).float().eval() if args.teacher else None
    print(args.name, len(ids), 'tokens', sum(p.numel() for p in model.parameters()) / 1e6, 'M parameters', flush=True)
    train(model, teacher, ids, args.minutes)

    out = args.out or 'models/' + args.name
    model.to(torch.float16).save_pretrained(out)
    hf = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token='<|end|>', pad_token='<|end|>')
    hf.chat_template = TEMPLATE
    hf.save_pretrained(out)


if __name__ == '__main__':
    main()
