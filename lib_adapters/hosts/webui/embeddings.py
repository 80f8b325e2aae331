"""Embeddings bundled with active adapters, in the web UI's embedding database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from lib_adapters.conditioning.textual_inversion import embedding_tensors
from lib_adapters.files.adapter import Adapter
from lib_adapters.hosts.webui import webui_modules


class BundledEmbeddings:
    """Which words are ours now. A word that the user has a file of his own for stays his."""

    def __init__(self) -> None:
        self._registered: dict[tuple[str, str], Any] = {}  # (adapter, word) -> the host's embedding

    def sync(self, model: nn.Module, adapters: Iterable[Adapter]) -> list[str]:
        """Exactly the words of these adapters; what the user should know about any of them."""
        wanted = {(adapter.cache_key, word): adapter for adapter in adapters for word in adapter.bundled_embeddings}
        if not wanted and not self._registered:
            return []
        database = webui_modules.import_module("sd_hijack").model_hijack.embedding_db
        for key, embedding in list(self._registered.items()):
            if key not in wanted:
                if database.word_embeddings.get(key[1]) is embedding:
                    database.register_embedding_by_name(None, model, key[1])
                del self._registered[key]
        notes = (self._add(database, model, key, adapter) for key, adapter in wanted.items())
        return [note for note in notes if note]

    def _add(self, database: Any, model: nn.Module, key: tuple[str, str], adapter: Adapter) -> str | None:
        """Again after the host has read its own words anew."""
        word, there = key[1], database.word_embeddings.get(key[1])
        if there is not None:
            return (
                None
                if there is self._registered.get(key)
                else f"{adapter.name}: {word!r} is your own embedding's word."
            )
        if key not in self._registered:
            make = webui_modules.import_module("textual_inversion.textual_inversion").create_embedding_from_data
            try:
                self._registered[key] = make(_data(adapter, word), word, filename=f"{adapter.path}/{word}")
            except Exception as error:  # noqa: BLE001 - the host raises bare ones for data it does not know
                return f"{adapter.name}: its embedding {word!r} cannot be used ({error})."
        embedding = self._registered[key]
        if database.expected_shape not in (-1, embedding.shape):
            return f"{adapter.name}: its embedding {word!r} was made for another base model."
        database.register_embedding(embedding, model)
        return None


def _data(adapter: Adapter, word: str) -> dict[str, Any]:
    """As the file of a textual inversion holds it."""
    data: dict[str, Any] = {}
    for tensor_name, tensor in _named(adapter, word):
        if tensor_name.startswith("string_to_param."):
            data["string_to_param"] = {tensor_name.partition(".")[2]: tensor}
        else:
            data[tensor_name] = tensor
    return data


def _named(adapter: Adapter, word: str) -> Iterator[tuple[str, Tensor]]:
    return ((tensor_name or f"<{word}>", tensor) for tensor_name, tensor in embedding_tensors(adapter, word))
