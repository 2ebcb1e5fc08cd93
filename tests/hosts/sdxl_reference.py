"""What SDXL's conditioning has to be, computed outside the webui by plain transformers.

Run by the host's Python, as a1111_reference.py is:
`sdxl_reference.py HUB CASES.json OUT.safetensors`. The weights are drawn once more as
forge_checkpoint.py draws them. A case is a prefix file (or none) and a text; of each the rows
(77 * chunks, 2048) and the pooled output (1280) are written.
"""

import json
import sys
from pathlib import Path

import torch
from a1111_reference import Reference
from forge_checkpoint import CLIP_G, CLIP_L, clip, projection
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


class Tower(Reference):
    def __init__(self, hub, config, seed, pad):
        folder = Path(hub) / "models--openai--clip-vit-large-patch14" / "snapshots" / "0"
        self.tokenizer = CLIPTokenizer.from_pretrained(str(folder))
        self.model = CLIPTextModel(CLIPTextConfig(**config)).eval()
        self.model.load_state_dict(clip(config, seed), strict=False)
        self.layer = self.model.text_model.embeddings.token_embedding
        self.pad, self.pooled = pad, []

    def output(self, ids):
        found = self.model(input_ids=ids, output_hidden_states=True)
        self.pooled.append(found.pooler_output)
        return found.hidden_states[-2]


def main():
    hub, cases, out = sys.argv[1:]
    towers = {"clip_l": Tower(hub, CLIP_L, 3, 49407), "clip_g": Tower(hub, CLIP_G, 4, 0)}
    results = {}
    with torch.no_grad():
        for case in json.loads(Path(cases).read_text()):
            halves = []
            for key, tower in towers.items():
                tower.pooled.clear()
                prefix = case["prefix"] and {
                    "rows": load_file(case["prefix"])[key],
                    "behind": case["behind"],
                }
                halves.append(tower.encode(prefix, [case["text"]])[0])
            results[f"{case['name']}.rows"] = torch.cat(halves, dim=1).contiguous()
            first = towers["clip_g"].pooled[0]
            pooled = torch.nn.functional.linear(first, projection().float())
            results[f"{case['name']}.pooled"] = pooled[0].contiguous()
    save_file(results, out)


if __name__ == "__main__":
    main()
