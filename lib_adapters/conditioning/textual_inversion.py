"""Textual inversions from adapter files, added to a tokenizer and a text encoder while their adapter is active.

Neither is written to. The pipeline gets a copy of its tokenizer that knows the words; hooks on the encoder's table of
tokens put the vectors in. Giving both back leaves everything as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lib_adapters.files.adapter import Adapter
from lib_adapters.files.loading import read_tensor_bytes, tensor_view
from lib_adapters.ops.torch_modes import plain_tensors

SINGLE_ENCODER = "string_to_param.*"  # for the only text encoder of Stable Diffusion 1 and 2
ENCODER_NAMES = ("clip_l", "clip_g")  # of SDXL, in the pipeline's order


class Tokenizer(Protocol):
    """What is used of transformers' tokenizers."""

    added_tokens_encoder: dict[str, int]

    def __len__(self) -> int: ...
    def add_tokens(self, new_tokens: list[str]) -> int: ...
    def convert_tokens_to_ids(self, tokens: str) -> int: ...


@dataclass(frozen=True)
class BundledEmbedding:
    """One embedding: `token` is what a prompt says; vectors [n, width] by the name the file gives the encoder."""

    token: str
    vectors: dict[str, Tensor]

    def vectors_for(self, encoder_index: int, encoder_count: int) -> Tensor | None:
        """[n, width] for one of so many encoders; None where it has none for that."""
        names = (
            (ENCODER_NAMES[encoder_index],)
            if encoder_count > 1
            else (SINGLE_ENCODER, "", ENCODER_NAMES[0], ENCODER_NAMES[1])
        )
        return next((self.vectors[name] for name in names if name in self.vectors), None)


def embedding_tensors(adapter: Adapter, name: str) -> Iterator[tuple[str, Tensor]]:
    """(what follows the embedding's name in the key, vectors [n, width]); "" for a token's own single vector."""
    blob, lowest = read_tensor_bytes(adapter.tensor_file)
    prefix = f"bundle_emb.{name}."
    for key, entry in adapter.tensor_file.entries.items():
        if key == f"<{name}>" or key.startswith(prefix):
            tensor_name = "" if key == f"<{name}>" else key.removeprefix(prefix)
            yield tensor_name, tensor_view(blob, lowest, entry).clone()


@plain_tensors()
def read_bundled_embeddings(adapter: Adapter) -> list[BundledEmbedding]:
    """All embeddings in an adapter's file, float32 [n, width]. AdapterError if the file changed or vanished."""
    found = []
    for name in adapter.bundled_embeddings:
        vectors = {
            tensor_name: tensor.float().reshape(-1, tensor.shape[-1])
            for tensor_name, tensor in embedding_tensors(adapter, name)
            if tensor.numel() and tensor.ndim in (1, 2)
        }
        found.append(BundledEmbedding(f"<{name}>" if "" in vectors else name, vectors))
    return found


class TokenOverride:
    """Two hooks of one table of tokens: ids from `first` on pass as 0 and get their vectors [n, width] afterwards."""

    def __init__(self, first_id: int, vectors: Tensor) -> None:
        self._first_id, self._vectors = first_id, vectors
        self._ids: Tensor | None = None

    def install(self, token_embedding: nn.Module) -> list[RemovableHandle]:
        """What it gives back takes them off again."""
        return [
            token_embedding.register_forward_pre_hook(self._before),
            token_embedding.register_forward_hook(self._after),
        ]

    def _before(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        self._ids = inputs[0]
        return (torch.where(inputs[0] < self._first_id, inputs[0], 0), *inputs[1:])

    def _after(self, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        assert self._ids is not None
        ours = self._ids >= self._first_id
        vectors = self._vectors.to(output.device, output.dtype)[(self._ids - self._first_id).clamp(min=0)]
        return torch.where(ours.unsqueeze(-1), vectors, output)


@dataclass(frozen=True)
class ExtendedTokenizer:
    """A tokenizer that knows the words, and the hooks that give them their meaning."""

    tokenizer: Tokenizer
    handles: list[RemovableHandle]
    notes: list[str]


@plain_tensors()
def extend_tokenizer(
    tokenizer: Tokenizer,
    encoder: nn.Module,
    embeddings: Iterable[tuple[str, BundledEmbedding]],
    position: tuple[int, int],
) -> ExtendedTokenizer:
    """`words` with the names of their adapters; `place` is (which encoder, of how many)."""
    table: nn.Embedding = encoder.get_input_embeddings()  # type: ignore[operator]  # transformers' own
    width = table.weight.shape[1]
    known, notes = copy.deepcopy(tokenizer), []
    rows: list[Tensor] = []
    first = len(tokenizer)
    for adapter, word in embeddings:
        vectors = word.vectors_for(*position)
        if vectors is None:
            continue
        if word.token in known.added_tokens_encoder:
            notes.append(f"{adapter}: the word {word.token!r} is taken already and keeps its meaning.")
        elif vectors.shape[1] != width:
            notes.append(
                f"{adapter}: its embedding {word.token!r} is {vectors.shape[1]} wide, but this text encoder {width}."
            )
        else:
            # as diffusers counts the further tokens of a word that has several vectors
            known.add_tokens([word.token, *(f"{word.token}_{n}" for n in range(1, len(vectors)))])
            rows.append(vectors)
    handles = TokenOverride(first, torch.cat(rows)).install(table) if rows else []
    return ExtendedTokenizer(known if rows else tokenizer, handles, notes)
