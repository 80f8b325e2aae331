"""Embeddings bundled with active adapters, in a pipeline's tokenizers."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.hooks import RemovableHandle

from lib_adapters.conditioning.textual_inversion import Tokenizer, extend_tokenizer, read_bundled_embeddings
from lib_adapters.files.adapter import Adapter
from lib_adapters.hosts.diffusers.load_pipeline import TEXT_ENCODERS, Pipeline

TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}


class BundledEmbeddings:
    """The pipeline's own tokenizers are put back when nothing is wanted any more."""

    def __init__(self, pipe: Pipeline) -> None:
        self._pipe = pipe
        self._original_tokenizers: dict[str, Tokenizer] = {}
        self._handles: list[RemovableHandle] = []
        self._adapter_keys: list[str] = []
        self._notes: list[str] = []

    def sync(self, adapters: Sequence[Adapter]) -> list[str]:
        """Exactly the words of these adapters; what the user should know about any of them."""
        wanted = [adapter.cache_key for adapter in adapters if adapter.bundled_embeddings]
        if wanted == self._adapter_keys:
            return self._notes
        self.restore()
        words = [(adapter.name, word) for adapter in adapters for word in read_bundled_embeddings(adapter)]
        there = [part for part in TEXT_ENCODERS if getattr(self._pipe, part, None) is not None]
        for number, part in enumerate(there):
            name, encoder = TOKENIZERS[part], getattr(self._pipe, part)
            own: Tokenizer = getattr(self._pipe, name)
            learned = extend_tokenizer(own, encoder, words, (number, len(there)))
            setattr(self._pipe, name, learned.tokenizer)
            self._original_tokenizers[name] = own
            self._handles += learned.handles
            self._notes += learned.notes
        self._adapter_keys = wanted
        return self._notes

    def restore(self) -> None:
        for handle in self._handles:
            handle.remove()
        for name, own in self._original_tokenizers.items():
            setattr(self._pipe, name, own)
        self._original_tokenizers, self._handles, self._adapter_keys, self._notes = {}, [], [], []
