"""Converts a built-in model for llama.cpp, with llama.cpp's own converter.

    python togguf.py LLAMA_CPP_DIRECTORY MODEL_DIRECTORY OUT.gguf

The converter knows pre-tokenisers by a hash and not ours, which is GPT-2's: it only has to be told so.
"""

import importlib
import sys


def main():
    root, source, destination = sys.argv[1:4]
    sys.path[:0] = [root, root + '/gguf-py']
    sys.argv = ['convert', source, '--outfile', destination, '--outtype', 'f16']
    converter = importlib.import_module('convert_hf_to_gguf')
    modules = [converter]
    try:
        modules.append(importlib.import_module('conversion.base'))  # where newer versions have their classes
    except ImportError:
        pass
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, type) and hasattr(value, 'get_vocab_base_pre'):
                value.get_vocab_base_pre = lambda self, tokenizer: 'gpt-2'
    converter.main()


if __name__ == '__main__':
    main()
