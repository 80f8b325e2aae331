"""The host's textual inversions."""

from __future__ import annotations

from types import SimpleNamespace


class Words:
    """The host's table of textual inversions."""

    expected_shape = -1

    def __init__(self):
        self.word_embeddings = {}

    def register_embedding(self, embedding, model):
        return self.register_embedding_by_name(embedding, model, embedding.name)

    def register_embedding_by_name(self, embedding, model, name):
        if embedding is None:
            self.word_embeddings.pop(name, None)
        else:
            self.word_embeddings[name] = embedding


def create_embedding_from_data(data, name, filename="unknown embedding file", filepath=None):
    if "string_to_param" not in data:
        raise Exception(f"Couldn't identify {filename}")
    (vector,) = data["string_to_param"].values()
    return SimpleNamespace(name=name, vec=vector, shape=vector.shape[-1])
