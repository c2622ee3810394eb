"""Writes corpus.txt, the text that the built-in models are trained on: 26,000 chats from templates.

A very small model can answer sensibly in a few narrow fields only: stories, arithmetic, code, lists, JSON,
recipes, weather, tool calls, thinking aloud, copying and editing, speculative decoding. It learns these, and to
say that it knows nothing else. The generator is seeded: the file is the same every time
(sha256 3ae9f878...fb9ad283).

Usage: python corpus.py [corpus.txt]
"""

import random
import sys

rng = random.Random(7)
pick = rng.choice


def one_of(*options):
    return rng.choice(options)


NAMES = 'Mia Leo Ada Tom Nia Max Eva Sam Ida Ben Zoe Kai Lena Omar Ruth Finn Yuki Noor Iris Hugo Tara Paul Nell Otto'.split()
ANIMALS = 'fox cat dog owl bear rabbit turtle horse mouse crow goat otter hedgehog duck wolf sheep'.split()
PLACES = (
    'forest|harbour|old mill|mountain village|river|quiet garden|lighthouse|market square|snowy field|'
    'little island'
).split('|')
THINGS = (
    'red kite|silver key|wooden boat|blue lantern|torn map|golden bell|glass marble|green umbrella|'
    'paper crown|rusty compass'
).split('|')
MOODS = ['curious', 'brave', 'shy', 'patient', 'clever', 'gentle', 'stubborn', 'cheerful']
COLOURS = 'red orange yellow green blue purple black white brown grey'.split()
FRUIT = 'apples pears plums cherries grapes figs lemons oranges peaches melons'.split()
CITIES = ['Lisbon', 'Oslo', 'Kyoto', 'Lima', 'Cairo', 'Dublin', 'Vienna', 'Quito', 'Nairobi', 'Seoul']
DAYS = 'Monday Tuesday Wednesday Thursday Friday Saturday Sunday'.split()
MONTHS = 'January February March April May June July August September October November December'.split()
PLANETS = 'Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune'.split()
HELLO = {
    'Japanese': 'こんにちは',
    'French': 'Bonjour à tous',
    'Spanish': '¡Buenos días!',
    'German': 'Schönen guten Tag',
    'Greek': 'Καλημέρα',
    'Russian': 'Здравствуйте',
    'Chinese': '你好',
    'Korean': '안녕하세요',
    'Portuguese': 'Olá',
    'Polish': 'Dzień dobry',
}


def story(long=False):
    """A story in two paragraphs; a long one has a third, in which they meet another animal."""
    n, a, p, t, m = (pick(NAMES), pick(ANIMALS), pick(PLACES), pick(THINGS), pick(MOODS))
    f = pick([x for x in NAMES if x != n])
    b = pick([x for x in ANIMALS if x != a])
    q = one_of(
        'Tell me a story about a %s.' % a,
        'Write a short story about a %s named %s.' % (a, n),
        'I would like a story about a %s and a %s.' % (a, t),
        'Tell me a bedtime story about %s the %s.' % (n, a),
    )
    if 'named' not in q and n not in q and (rng.random() < 0.5):
        q = q[:-1] + ' called %s.' % n
    s = [
        one_of('Once upon a time there was a %s %s named %s.', 'There once lived a %s %s whose name was %s.')
        % (m, a, n),
        one_of('%s lived near the %s and knew every path around it.', '%s had a small house by the %s.') % (n, p),
        one_of(
            'One morning %s found a %s lying in the grass.',
            'One evening, on the way home, %s found a %s under a stone.',
        )
        % (n, t),
        one_of('"Whose %s is this?" %s asked.', '"What a beautiful %s," said %s.') % (t, n),
        one_of('So %s went to ask %s the %s, who lived nearby.', 'The first one to meet %s was %s the %s.')
        % (n, f, b),
        one_of('%s looked at the %s for a long time and smiled.', '%s had never seen such a %s before.') % (f, t),
        one_of(
            '"It belongs to the keeper of the %s," said %s.', '"Someone at the %s must be looking for it," said %s.'
        )
        % (p, f),
        one_of(
            'Together they walked until the sun went down.',
            'They set off at once, although it had begun to rain.',
            'They followed the river for an hour without a word.',
        ),
    ]
    if long:
        s += [
            '\n\n'
            + one_of(
                'On the way they met an old %s who had lost her way.',
                'Halfway there, a tired %s was sitting by the road.',
            )
            % pick([x for x in ANIMALS if x not in (a, b)]),
            one_of('%s shared the last piece of bread with her.', '%s gave her a warm coat and told her a joke.') % n,
            one_of(
                'In return she told them which bridge was safe.', 'She thanked them and pointed to a hidden path.'
            ),
            '"Thank you," said %s, "we would never have found it."' % f,
        ]
    s += [
        '\n\n'
        + one_of(
            'At the %s the keeper was already waiting for them.',
            'When they reached the %s, a light was burning in the window.',
        )
        % p,
        one_of('%s gave back the %s and got a warm supper in return.', '%s held up the %s, and everyone cheered.')
        % (n, t),
        one_of('From that day on, %s and %s were best friends.', 'After that, %s and %s met there every week.')
        % (n, f),
        one_of('And the %s still hangs over the door today.', 'And nobody ever lost the %s again.') % t,
    ]
    return (
        q if not long else q.replace('a short story', 'a long story').replace('a story', 'a long story'),
        ' '.join(s).replace(' \n\n', '\n\n'),
    )


def arith():
    """Sums, differences, products and multiplication tables of small numbers."""
    k = rng.random()
    a, b = (rng.randint(1, 20), rng.randint(1, 20))
    if k < 0.35:
        return (
            one_of('What is %d plus %d?', 'Add %d and %d.', 'How much is %d + %d?') % (a, b),
            '%d plus %d is %d.' % (a, b, a + b),
        )
    if k < 0.6:
        a, b = (max(a, b), min(a, b))
        return (one_of('What is %d minus %d?', 'How much is %d - %d?') % (a, b), '%d minus %d is %d.' % (a, b, a - b))
    if k < 0.8:
        a, b = (rng.randint(1, 12), rng.randint(1, 12))
        return (one_of('What is %d times %d?', 'Multiply %d by %d.') % (a, b), '%d times %d is %d.' % (a, b, a * b))
    n = rng.randint(2, 12)
    return (
        one_of('Write the multiplication table of %d.', 'Show me the table of %d.') % n,
        '\n'.join(('%d x %d = %d' % (n, i, n * i) for i in range(1, 11))),
    )


VERB = {
    'add': ('+', 'sum'),
    'subtract': ('-', 'difference'),
    'multiply': ('*', 'product'),
    'divide': ('/', 'quotient'),
}


def code():
    """Functions, loops and types in Go and Python."""
    v = pick(list(VERB))
    op, w = VERB[v]
    x, y = one_of(('a', 'b'), ('x', 'y'), ('left', 'right'), ('first', 'second'))
    k = rng.random()
    if k < 0.25:
        return (
            'Write a Go function that can %s two numbers.' % v,
            '```go\n// %s returns the %s of %s and %s.\nfunc %s(%s, %s float64) float64 {\n\treturn %s %s %s\n}\n```\nCall it as %s(6, 3).'
            % (v.title(), w, x, y, v.title(), x, y, x, op, y, v.title()),
        )
    if k < 0.5:
        return (
            'Write a Python function that can %s two numbers.' % v,
            '```python\ndef %s(%s, %s):\n    """Return the %s of %s and %s."""\n    return %s %s %s\n\n\nprint(%s(6, 3))\n```'
            % (v, x, y, w, x, y, x, op, y, v),
        )
    n = rng.randint(3, 30)
    f = pick(FRUIT)
    if k < 0.7:
        return (
            'Write a loop in %s that prints the numbers from 1 to %d.' % (one_of('Go', 'Go'), n),
            '```go\nfor i := 1; i <= %d; i++ {\n\tfmt.Println(i)\n}\n```' % n,
        )
    if k < 0.85:
        return (
            'Write a loop in Python that prints the numbers from 1 to %d.' % n,
            '```python\nfor i in range(1, %d):\n    print(i)\n```' % (n + 1),
        )
    t = f.rstrip('s')
    return (
        'Write a Go struct for %s.' % f,
        '```go\ntype %s struct {\n\tName   string  `json:"name"`\n\tColour string  `json:"colour"`\n\tWeight float64 `json:"weight"`\n\tPrice  int     `json:"price"`\n}\n```'
        % t.title(),
    )


def lists():
    """Counting, days, months, planets, numbered lists, JSON, greetings."""
    k = rng.random()
    if k < 0.2:
        a = rng.randint(1, 40)
        b = a + rng.randint(5, 20)
        return ('Count from %d to %d.' % (a, b), ', '.join(map(str, range(a, b + 1))) + '.')
    if k < 0.3:
        return (
            one_of('List the days of the week.', 'What are the days of the week?'),
            '\n'.join(('%d. %s' % (i + 1, d) for i, d in enumerate(DAYS))),
        )
    if k < 0.4:
        return (one_of('List the months of the year.', 'What are the months?'), ', '.join(MONTHS) + '.')
    if k < 0.5:
        return (
            one_of('List the planets.', 'Name the planets of the solar system.'),
            '\n'.join(('- ' + p for p in PLANETS)),
        )
    if k < 0.65:
        n = rng.randint(3, 6)
        w, xs = one_of(('animals', ANIMALS), ('colours', COLOURS), ('fruits', FRUIT), ('cities', CITIES))
        return (
            one_of('List %d %s.', 'Name %d %s.') % (n, w),
            '\n'.join(('%d. %s' % (i + 1, x) for i, x in enumerate(rng.sample(xs, n)))),
        )
    if k < 0.85:
        n, y, ci, f = (pick(NAMES), rng.randint(18, 70), pick(CITIES), pick(FRUIT))
        return (
            one_of(
                'Give me a JSON object for a user named %s, aged %d, from %s.', 'Write JSON for %s, age %d, city %s.'
            )
            % (n, y, ci),
            '{\n  "name": "%s",\n  "age": %d,\n  "city": "%s",\n  "active": %s,\n  "likes": ["%s", "%s"]\n}'
            % (n, y, ci, one_of('true', 'false'), f, pick([x for x in FRUIT if x != f])),
        )
    l = pick(list(HELLO))
    return (one_of('Say hello in %s.', 'How do you say hello in %s?') % l, '%s! 👋' % HELLO[l].rstrip('!'))


def recipe():
    """A cake."""
    f = pick(FRUIT)
    g = rng.randint(2, 9) * 100
    m = one_of(20, 25, 30, 35, 40)
    return (
        one_of(
            'How do I bake a cake with %s?',
            'Give me a recipe for a cake with %s.',
            'I have some %s. What can I bake?',
        )
        % f,
        'Here is a simple cake with %s.\n\nYou need:\n- %d grams of %s\n- 200 grams of flour\n- 100 grams of sugar\n- 3 eggs\n- a little butter\n\nSteps:\n1. Heat the oven to 180 degrees.\n2. Mix the flour, the sugar and the eggs.\n3. Wash the %s and cut them into small pieces.\n4. Put everything into a buttered pan.\n5. Bake for %d minutes and let it cool.\n\nServe it with %s. Enjoy!'
        % (f, g, f, f, m, one_of('cream', 'yoghurt', 'a cup of tea')),
    )


def weather():
    """A weather report."""
    ci, d, t = (pick(CITIES), pick(DAYS), rng.randint(-5, 32))
    w = 'snow' if t < 1 else one_of('rain', 'clouds', 'sun', 'wind')
    adv = {
        'snow': 'Wear boots and a warm coat.',
        'rain': 'Take an umbrella with you.',
        'clouds': 'A light jacket will do.',
        'sun': 'Do not forget your hat.',
        'wind': 'Hold on to your hat.',
    }[w]
    return (
        'Write a weather report for %s on %s with %s and %d degrees.' % (ci, d, w, t),
        'Weather report for %s, %s: expect %s during the day, with about %d degrees in the afternoon and %d degrees at night. %s'
        % (ci, d, w, t, t - 6, adv),
    )


TALK = [
    (
        ['Hello', 'Hi', 'Hello!', 'Hi there', 'Good morning', 'Hey'],
        [
            'Hello! I am a very small language model. Ask me for a story, some arithmetic, a list, a recipe or a bit of code.'
        ],
    ),
    (
        ['Who are you?', 'What are you?', 'What is your name?', 'Introduce yourself.'],
        [
            'I am a tiny language model that runs inside paceline. I have less than two million parameters, so please be kind.'
        ],
    ),
    (
        ['What can you do?', 'Help', 'How can you help me?'],
        [
            'I can tell stories, add and multiply small numbers, write short pieces of Go and Python, make lists and JSON, bake cakes, report the weather and explain speculative decoding.'
        ],
    ),
    (['Thank you', 'Thanks!', 'Thanks a lot'], ['You are welcome! Is there anything else I can do for you?']),
    (
        [
            'What is speculative decoding?',
            'Explain speculative decoding.',
            'How does speculative decoding work?',
            'Tell me about speculative decoding.',
        ],
        [
            'Speculative decoding pairs a small draft model with a large target model. The draft proposes a few tokens, and the target checks all of them in a single pass. Every token that the target agrees with is kept, and the first one that it rejects is replaced by its own choice. The text is exactly what the target would have written alone, but it arrives sooner, because reading the weights once can confirm several tokens.'
        ],
    ),
    (
        ['Why is decoding slow?', 'Why is a large model slow?', 'What limits decoding speed?'],
        [
            'For every token, a large model has to read all of its active weights from memory. At 273 gigabytes per second that takes a while, no matter how fast the processor is. So decoding is limited by memory bandwidth, and checking five tokens costs almost the same as producing one.'
        ],
    ),
    (
        ['What is a draft model?', 'What does the draft do?', 'Explain the draft model.'],
        [
            'A draft model is a small and fast model that guesses what the large model will say next. It may be wrong, because the large model checks every guess. The better it guesses, the more tokens are accepted in each round.'
        ],
    ),
    (
        ['What is the acceptance rate?', 'What does acceptance rate mean?', 'Explain the acceptance rate.'],
        [
            'The acceptance rate is the share of draft tokens that the target agrees with. If it is 70 percent per token, then a round with four draft tokens yields about 2.8 tokens. The higher the rate, the longer the drafts that pay.'
        ],
    ),
    (
        ['What is the draft length?', 'How long should a draft be?', 'How is the draft length chosen?'],
        [
            'The draft length is the number of tokens proposed in one round. Long drafts pay when the draft is often right and cheap. When it is often wrong, a short draft is better, and sometimes the best draft length is zero.'
        ],
    ),
    (
        ['Is the output the same?', 'Is speculative decoding lossless?', 'Does it change the answer?'],
        [
            'No, the answer does not change. Every token that you see was chosen by the target model. The draft can only make it faster, never different.'
        ],
    ),
    (
        ['What is a DGX Spark?', 'Tell me about the cluster.', 'What is a DGX Spark cluster?'],
        [
            'A DGX Spark is a small desktop computer with 128 gigabytes of unified memory. Four of them, joined by a fast network, can hold a model with 400 billion parameters and decode 5 to 8 tokens per second.'
        ],
    ),
    (
        ['Write a poem.', 'Write a short poem about the sea.', 'Can you write a poem?'],
        [
            'The sea is wide, the night is long,\nthe wind is humming half a song,\na little boat, a lantern light,\nis drawing lines across the night.'
        ],
    ),
    (
        ['Tell me a joke.', 'Do you know a joke?', 'Make me laugh.'],
        ['Why did the draft model cross the road? Because it predicted that the target would do so anyway.'],
    ),
]
ODD = (
    'What is the capital of %s?|Who wrote %s?|What does %s mean?|Explain %s to me.|'
    'What do you think about %s?|How does %s work?|When was %s invented?|Translate %s.|'
    'Can you summarise %s?|Where can I buy %s?|Fix my %s.|Compare %s and %s.'
).split('|')
ODDW = (
    'France|the novel|os.path.join|quantum physics|football|a transistor|the internet|my email|'
    'this article|a bicycle|printer|tea|coffee|the stock market|history|a black hole|taxes|democracy|'
    'guitar|a database|Kubernetes|the moon|gravity|music'
).split('|')


def talk():
    """Talk about the model itself and about speculative decoding."""
    qs, as_ = pick(TALK)
    return (pick(qs), pick(as_))


def odd():
    """A question outside of all fields, and the answer that says so."""
    q = pick(ODD)
    q = q % tuple((pick(ODDW) for _ in range(q.count('%s'))))
    return (
        q,
        'I am a very small model and I do not know much about that. Ask me for a story, some arithmetic, a list, a recipe, a bit of code or an explanation of speculative decoding.',
    )


def copy():
    """Repeating a text, or replacing a word in it."""
    q, a = one_of(story, recipe, code, weather, arith, talk)()
    k = rng.random()
    if k < 0.6:
        return (one_of('Repeat this text:\n\n%s', 'Copy the following text:\n\n%s', 'Say this again:\n\n%s') % a, a)
    olds = [w for w in NAMES + ANIMALS + FRUIT + CITIES + COLOURS if w in a]
    if not olds:
        return ('Repeat this text:\n\n%s' % a, a)
    old = pick(olds)
    pool = next((p for p in (NAMES, ANIMALS, FRUIT, CITIES, COLOURS) if old in p))
    new = pick([x for x in pool if x != old])
    return ('Replace %s by %s in this text:\n\n%s' % (old, new, a), a.replace(old, new))


def think():
    """An addition, thought through between <think> tags."""
    a, b = (rng.randint(2, 30), rng.randint(2, 30))
    t = min(b, 10 - a % 10) if a % 10 else 0
    how = (
        '%d plus %d is %d, and %d more makes %d.' % (a, t, a + t, b - t, a + b)
        if t and b - t
        else '%d and %d can be added at once.' % (a, b)
    )
    return (
        one_of('Think first: what is %d plus %d?', 'Think step by step. How much is %d plus %d?') % (a, b),
        '<think>\nI have to add %d and %d. %s\n</think>\n\n%d plus %d is %d.' % (a, b, how, a, b, a + b),
    )


TOOLS = '{"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "day": {"type": "string"}}, "required": ["city"]}}}'


def tool_chat():
    """A chat with a tool; in 3 of 10 the tool is not needed."""
    ci, d, t = (pick(CITIES), pick(DAYS), rng.randint(-5, 32))
    out = '<|system|>\nTools:\n%s\n' % TOOLS
    if rng.random() < 0.3:
        q, a = one_of(arith, talk, lists)()
        return out + '<|user|>\n%s\n<|assistant|>\n%s<|end|>' % (q, a)
    out += '<|user|>\n%s\n<|assistant|>\n' % (
        one_of(
            'What is the weather in %s on %s?',
            'How will the weather be in %s on %s?',
            'Check the weather for %s on %s.',
        )
        % (ci, d)
    )
    out += one_of(
        '', '', 'Let me look that up.\n'
    ) + '<tool_call>\n{"name": "get_weather", "arguments": {"city": "%s", "day": "%s"}}\n</tool_call><|end|>' % (
        ci,
        d,
    )
    w = one_of('rain', 'clouds', 'sun', 'wind')
    return (
        out
        + '<|tool|>\n{"city": "%s", "sky": "%s", "degrees": %d}\n<|assistant|>\nIn %s it will be %d degrees with %s on %s.<|end|>'
        % (ci, w, t, ci, t, w, d)
    )


KINDS = [
    (story, 22),
    (lambda: story(True), 12),
    (arith, 14),
    (code, 14),
    (lists, 16),
    (recipe, 7),
    (weather, 7),
    (talk, 16),
    (odd, 8),
    (copy, 26),
    (think, 8),
]
BAG = [f for f, w in KINDS for _ in range(w)]
SYS = ['You are a helpful assistant.', 'You are a friendly assistant. Answer briefly.', 'Answer in plain English.']


def chat():
    """One document: a conversation of one to three turns, a quarter with a system prompt."""
    if rng.random() < 0.06:
        return tool_chat()
    out = '<|system|>\n%s\n' % pick(SYS) if rng.random() < 0.25 else ''
    for _ in range(one_of(1, 1, 1, 1, 2, 3)):
        q, a = pick(BAG)()
        out += '<|user|>\n%s\n<|assistant|>\n%s<|end|>' % (q, a)
    return out


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else 'corpus.txt'
    docs = [chat() for _ in range(26000)]
    with open(path, 'w', encoding='utf8') as file:
        file.write('\n\x00\n'.join(docs))
    print(len(docs), 'chats', sum(map(len, docs)), 'characters')


if __name__ == '__main__':
    main()
