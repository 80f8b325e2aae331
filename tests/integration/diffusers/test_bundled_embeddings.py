"""Embeddings inside an adapter's file: words of a pipeline while the adapter is wanted, and of nobody afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator, Settings
from lib_adapters.hosts.diffusers.load_pipeline import open_pipeline
from tests.support.sample_adapters import adapter_file, layers

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's packages say about each other
CPU = torch.device("cpu")
LETTER = "x"  # one token to every tokenizer
QUICK = Settings(steps=1, seed=3, size=(64, 64))


def vectors(pipe, text):
    """What the encoder's table holds for the tokens of a text."""
    ids = pipe.tokenizer(text, add_special_tokens=False).input_ids
    return pipe.text_encoder.get_input_embeddings().weight.detach()[ids].clone()


def put(folder, name, pipe, embeddings):
    path = adapter_file(folder / f"{name}.safetensors", layers(pipe.unet))
    save_file(load_file(path) | embeddings, path)


@pytest.fixture(scope="module")
def studio(sd1_folder, tmp_path_factory):
    folder, pipe = tmp_path_factory.mktemp("adapters"), open_pipeline(sd1_folder, CPU)
    one, two = vectors(pipe, LETTER), vectors(pipe, "cat dog")
    assert len(one) == 1
    put(folder, "one", pipe, {"bundle_emb.zzz.string_to_param.*": one, "<s1>": one[0].clone()})
    put(folder, "two", pipe, {"bundle_emb.qqq.string_to_param.*": two, "bundle_emb.zzz.clip_l": two[-1:].clone()})
    put(folder, "wide", pipe, {"bundle_emb.www.string_to_param.*": torch.ones(1, 5)})
    return Generator.open(sd1_folder, CPU, FolderResolver([folder]))


def pixels(studio, prompt):
    return np.asarray(studio.generate(prompt, QUICK).image)


@pytest.fixture(autouse=True)
def as_it_was(studio):
    tokenizer, table = studio.pipe.tokenizer, studio.pipe.text_encoder.get_input_embeddings()
    yield
    studio.activate_prompt("x")
    assert studio.pipe.tokenizer is tokenizer
    assert not table._forward_hooks
    assert not table._forward_pre_hooks


@pytest.mark.parametrize("word", ["zzz", "<s1>"])
def test_a_word_means_its_vector_while_the_tag_is_there(studio, word):
    wanted, plain = pixels(studio, f"a {LETTER}"), pixels(studio, f"a {word}")
    assert (pixels(studio, f"a {word} <lyco:one:0>") == wanted).all()
    assert (plain != wanted).any()
    assert (pixels(studio, f"a {word}") == plain).all()


def test_a_word_of_several_vectors_is_several_tokens(studio):
    assert (pixels(studio, "qqq here <lyco:two:0>") == pixels(studio, "cat dog here")).all()


def test_the_report_names_the_words_and_what_cannot_be_had(studio):
    active = studio.activate_prompt("<lyco:one:0><lyco:two:0><lyco:wide:0>")
    report, problems = active.report, active.problems
    assert report.adapters[0].notes == ["brings embeddings for 's1', 'zzz'"]
    assert any("two: the word 'zzz' is taken already" in problem for problem in problems)
    assert any("wide: its embedding 'www' is 5 wide, but this text encoder" in problem for problem in problems)


def test_an_own_word_of_the_pipeline_keeps_its_meaning(sd1_folder, studio):
    own = Generator.open(sd1_folder, CPU, studio.resolver)
    own.pipe.tokenizer.add_tokens(["zzz"])
    own.pipe.text_encoder.resize_token_embeddings(len(own.pipe.tokenizer))
    before = pixels(own, "a zzz")
    problems = own.activate_prompt("<lyco:one:0>").problems
    assert any("the word 'zzz' is taken already" in problem for problem in problems)
    assert (pixels(own, "a zzz <lyco:one:0>") == before).all()
