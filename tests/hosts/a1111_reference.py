"""What text conditioning has to be, computed outside the webui by plain transformers.

Run by the host's Python, so that both sides use the same torch. Reads a JSON of cases, writes
safetensors: `a1111_reference.py CHECKPOINT HUB CASES.json OUT.safetensors`. A case is a prefix
file (or none) and groups; a group is a list of texts that the host encodes in one call; a text is a
list of segments (BREAK lies between them); a segment is a list of (words, weight).
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

BOS, EOS = 49406, 49407


class Reference:
    pad = EOS

    def __init__(self, checkpoint, hub):
        folder = Path(hub) / "models--openai--clip-vit-large-patch14" / "snapshots" / "0"
        self.tokenizer = CLIPTokenizer.from_pretrained(str(folder))
        self.model = CLIPTextModel(CLIPTextConfig.from_pretrained(str(folder))).eval()
        start = "cond_stage_model.transformer."
        weights = {
            name[len(start) :]: value
            for name, value in load_file(checkpoint).items()
            if name.startswith(start)
        }
        self.model.load_state_dict(weights, strict=False)
        self.layer = self.model.text_model.embeddings.token_embedding

    def encode(self, prefix, texts):
        """(texts, 77 * chunks, 768)."""
        laid_out = [self.chunks(prefix, text) for text in texts]
        most = max(map(len, laid_out))
        for chunks, text in zip(laid_out, texts, strict=True):
            empty = self.lay_out(prefix if self.spoken(text) else None, [])
            chunks += [empty] * (most - len(chunks))
        return torch.hstack([self.run([chunks[i] for chunks in laid_out]) for i in range(most)])

    def spoken(self, text):
        return any(words.strip() for segment in text for words, _ in segment)

    def chunks(self, prefix, text):
        prefix = prefix if self.spoken(text) else None
        room = 75 - (0 if prefix is None else len(prefix["rows"]))
        chunks = []
        for segment in text:
            tokens = []
            for words, weight in segment:
                ids = self.tokenizer(words, add_special_tokens=False)["input_ids"]
                tokens += [(token, weight) for token in ids]
            parts = [tokens[i : i + room] for i in range(0, max(len(tokens), 1), room)]
            chunks += [self.lay_out(prefix, part) for part in parts]
        return chunks

    def lay_out(self, prefix, part):
        """Items (token, weight, row of the prefix or None) of 77 places."""
        rows = [] if prefix is None else list(prefix["rows"])
        cut = len(rows) - (0 if prefix is None else prefix["behind"])
        front, behind = ([(0, 1.0, row) for row in half] for half in (rows[:cut], rows[cut:]))
        text = [(token, weight, None) for token, weight in part]
        items = [(BOS, 1.0, None), *front, *text, *behind, (EOS, 1.0, None)]
        return items + [(EOS, 1.0, None)] * (77 - len(items))

    def ids(self, items):
        tokens = [token for token, _, _ in items]
        end = tokens.index(EOS) + 1
        return tokens[:end] + [self.pad] * len(tokens[end:])

    def output(self, ids):
        return self.model(input_ids=ids, output_hidden_states=-1).last_hidden_state

    def run(self, batch):
        rows = [(i, j, row) for i, items in enumerate(batch) for j, (_, _, row) in enumerate(items)]

        def put_rows_in(_module, _inputs, embedded):
            embedded = embedded.clone()
            for i, j, row in rows:
                if row is not None:
                    embedded[i, j] = row
            return embedded

        handle = self.layer.register_forward_hook(put_rows_in)
        try:
            z = self.output(torch.tensor([self.ids(items) for items in batch]))
        finally:
            handle.remove()
        weights = torch.tensor([[weight for _, weight, _ in items] for items in batch])
        if (weights != 1).any():
            text = torch.tensor([[row is None for _, _, row in items] for items in batch])
            before = z[text].mean()
            z[text] = z[text] * weights[text][:, None]
            z[text] = z[text] * (before / z[text].mean())
        return z


def main():
    checkpoint, hub, cases, out = sys.argv[1:]
    reference = Reference(checkpoint, hub)
    results = {}
    with torch.no_grad():
        for case in json.loads(Path(cases).read_text()):
            prefix = None
            if case["prefix"]:
                rows = load_file(case["prefix"])["clip_l"]
                prefix = {"rows": rows, "behind": case["behind"]}
            for index, group in enumerate(case["groups"]):
                results[f"{case['name']}.{index}"] = reference.encode(prefix, group).contiguous()
    save_file(results, out)


if __name__ == "__main__":
    main()
