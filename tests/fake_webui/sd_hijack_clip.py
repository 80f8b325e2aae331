"""The host's wrapper around a text encoder: chunks, emphasis, vectors for words; a hijack makes a new one."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

CHUNK = 6  # words; the host's are 75


class SdConditioning(list):
    def __init__(self, prompts, is_negative_prompt=False, width=None, height=None, copy_from=None):
        super().__init__(prompts)
        self.is_negative_prompt = is_negative_prompt or getattr(copy_from, "is_negative_prompt", False)


class Embedder(nn.Module):
    """A number in a prompt is the word of that number, `n!` is twice as loud, and all else says nothing."""

    id_start, id_end, id_pad, chunk_length = 97, 98, 98, CHUNK

    def __init__(self, wrapped):
        super().__init__()
        self.wrapped = wrapped
        self.hijack = SimpleNamespace(fixes=None)
        self.clip_skip = 1

    def tokenize(self, texts):
        return [[int(word.rstrip("!")) for word in text.split() if word.rstrip("!").isdigit()] for text in texts]

    def forward(self, texts):
        zs, lengths = [], [len(ids) for ids in self.tokenize(texts)]
        for start in range(0, max(*lengths, 1), CHUNK):
            chunks = [self._chunk(text, start) for text in texts]
            self.hijack.fixes = [[] for _ in texts]
            zs.append(self.process_tokens([ids for ids, _ in chunks], [loud for _, loud in chunks]))
        return torch.hstack(zs)

    def _chunk(self, text, start):
        ids = self.tokenize([text])[0][start : start + CHUNK]
        loud = [2.0 if word.endswith("!") else 1.0 for word in text.split() if word.rstrip("!").isdigit()]
        rest = [self.id_end] * (CHUNK + 1 - len(ids))
        return [self.id_start, *ids, *rest], [1.0, *loud[start : start + CHUNK], *[1.0] * len(rest)]

    def process_tokens(self, tokens, multipliers):
        z = self.encode_with_transformers(torch.asarray(tokens))
        loud = torch.asarray(multipliers)[..., None]
        return z * loud * (z.mean() / (z * loud).mean())

    def encode_with_transformers(self, tokens):
        assert self.hijack.fixes is None or len(self.hijack.fixes) == len(tokens)
        self.hijack.fixes = None
        tower = self.wrapped.transformer
        found = tower(input_ids=tokens, output_hidden_states=True)
        if self.clip_skip == 1:
            return found.last_hidden_state
        return getattr(tower, "text_model", tower).final_layer_norm(found.hidden_states[-self.clip_skip])
