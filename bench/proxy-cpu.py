"""python3 bench/proxy-cpu.py: the processor time that the proxy's own process takes for a round at a context of about 900 tokens.

Starts the built-in pair (profile fast) in one process and a proxy in front of it in another, asks 24 long chats, eight at a time, with 8 tokens a draft, and divides the proxy's user and system time by its rounds.
Everything counts: reading requests, drafts, verifications, text, answers, the runtime's own waiting. Needs bin/paceline (make build) and Linux."""
import json, os, subprocess, sys, tempfile, time, urllib.request
from concurrent.futures import ThreadPoolExecutor

BINARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'bin', 'paceline')
TICK = 1e6 / os.sysconf('SC_CLK_TCK')


def serve(folder, name, *flags):
    ready = os.path.join(folder, name + '.json')
    process = subprocess.Popen([BINARY, 'serve', '--quiet', '--listen', '127.0.0.1:0', '--ready', ready, *flags], stdout=subprocess.DEVNULL)
    for _ in range(300):
        if os.path.exists(ready):
            return process, json.load(open(ready))
        time.sleep(.1)
    process.kill()
    sys.exit('%s was not ready within 30 s' % name)


def ask(url, verify, i):
    text = 'Once upon a time there was a brave fox named Mia. Mia lived near the old mill and knew every path around it. ' * 33
    body = {'model': 'target', 'temperature': 0, 'max_tokens': 160, 'ignore_eos': True, 'cache_salt': '%s%d' % (verify, i),
            'messages': [{'role': 'user', 'content': '%d Repeat this text:\n\n%s' % (i, text)}]}
    request = urllib.request.Request(url + '/v1/chat/completions', json.dumps(body).encode(), {'X-Paceline-Speculation': '8', 'Content-Type': 'application/json'})
    return json.load(urllib.request.urlopen(request, timeout=120))


def measure(folder, engines, verify):
    config = os.path.join(folder, verify + '.yaml')
    with open(config, 'w') as f:
        f.write('pairs:\n  - name: target\n    target: {url: "%s"}\n    drafts: [{url: "%s"}]\n    speculation: {length: 8, eager: true, verify: %s}\n' % (engines['targets'][0], engines['drafts'][0], verify))
    process, where = serve(folder, 'proxy-' + verify, '--config', config)
    try:
        used = lambda: [int(v) for v in open('/proc/%d/stat' % process.pid).read().rsplit(')', 1)[1].split()[11:13]]
        ask(where['proxy'], verify, 0)
        before, rounds = used(), 0
        for a in ThreadPoolExecutor(8).map(lambda i: ask(where['proxy'], verify, i), range(1, 25)):
            rounds += a['metrics']['speculative_decoding']['num_spec_steps']
        user, system = ((b - a) * TICK / rounds for a, b in zip(before, used()))
        print('%-8s context %d, %d rounds: %.0f us a round (%.0f user, %.0f system)' % (verify, a['usage']['prompt_tokens'], rounds, user + system, user, system))
    finally:
        process.terminate()
        process.wait()


with tempfile.TemporaryDirectory() as folder:
    engines, where = serve(folder, 'engines', '--profile', 'fast', '--draft-profile', 'fast')
    try:
        for verify in ('score', 'fan-out'):
            measure(folder, where, verify)
    finally:
        engines.terminate()
        engines.wait()
