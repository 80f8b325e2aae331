"""Where LyCORIS' own loader and merge are not what LyCORIS trained, and we are."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch

from tests.support.peer_libraries import RIGHT, bits, lycoris_job, lycoris_network, merged, model_of, ours, releases_of

LOHA, LOKR = ("loha", "LohaModule"), ("lokr", "LokrModule")
LORA, DORA = ("locon", "LoConModule"), {"weight_decompose": True}
SMALL = {"factor": 2, "lora_dim": 2}


@pytest.fixture(autouse=True)
def counted(tried):
    tried("what peers get wrong", "runs beside the trainer").add()


class Twice(NamedTuple):
    module: tuple[str, str]
    options: dict
    scale: float


@releases_of("test_loha_is_merged_with_its_scale_squared")
def test_loha_is_merged_with_its_scale_squared(release, tmp_path):
    twice(Twice(LOHA, {}, 0.5), release, tmp_path)


@releases_of("test_lokr_is_merged_with_its_scale_squared")
def test_lokr_is_merged_with_its_scale_squared(release, tmp_path):
    twice(Twice(LOKR, {**SMALL, "alpha": 1.0}, 0.5), release, tmp_path)


def twice(case, release, folder):
    trainer = release if release != "3.0.0.post1" else "4.1.3"
    job = lycoris_job(trainer, *case.module, **case.options)
    theirs = merged(release, job)
    torch.testing.assert_close(theirs - job.plain, (job.truth - job.plain) * case.scale, rtol=1e-3, atol=1e-5)
    assert job.off(ours(job, folder)) < RIGHT


@releases_of("test_restore_leaves_the_adapter_in_the_weights")
def test_restore_leaves_the_adapter_in_the_weights(release, tmp_path):
    job = lycoris_job(release, *LORA)
    model = model_of(job.base)
    network = lycoris_network(release, model, job.leaves)
    network.onfly_merge(1.0)
    network.onfly_restore()
    assert job.off(model.layer(job.x)) < RIGHT  # it is still applied
    assert job.off(ours(job, tmp_path)) < RIGHT  # which also looks that ours is gone


@releases_of("test_restore_leaves_the_bias")
def test_restore_leaves_the_bias(release, tmp_path):
    job = lycoris_job(release, "full", "FullModule")
    model = model_of(job.base)
    network = lycoris_network(release, model, job.leaves)
    network.onfly_merge(1.0)
    network.onfly_restore()
    weight, bias = bits(model.layer)
    assert torch.equal(weight, job.base.weight)
    assert not torch.allclose(bias, job.base.bias, atol=0.01)
    assert job.off(ours(job, tmp_path)) < RIGHT


@releases_of("test_dora_at_strength_0_is_not_off")
def test_dora_at_strength_0_is_not_off(release, tmp_path):
    job = lycoris_job(release, *LORA, **DORA)
    assert float((merged(release, job, 0.0) - job.plain).norm()) > 0.1 * float(job.plain.norm())
    assert torch.equal(ours(job, tmp_path, 0.0), job.plain)
    assert job.off(ours(job, tmp_path)) < RIGHT


def refused(release, job, error, folder):
    with pytest.raises(error):
        lycoris_network(release, model_of(job.base), job.leaves).merge_to(1.0)
    assert job.off(ours(job, folder)) < RIGHT


@releases_of("test_dora_by_columns_raises")
def test_dora_by_columns_raises(release, tmp_path):
    refused(release, lycoris_job("3.0.0.post1", *LORA, **DORA), RuntimeError, tmp_path)


@releases_of("test_ia3_raises")
def test_ia3_raises(release, tmp_path):
    refused(release, lycoris_job(release, "ia3", "IA3Module"), TypeError, tmp_path)


@releases_of("test_tucker_lokr_raises")
def test_tucker_lokr_raises(release, tmp_path):
    job = lycoris_job(release, *LOKR, "conv3x3", **SMALL, use_tucker=True)
    refused(release, job, (AttributeError, RuntimeError), tmp_path)


@releases_of("test_first_oft_files_raise")
def test_first_oft_files_raise(release, tmp_path):
    refused(release, lycoris_job("2.0.0", "diag_oft", "DiagOFTModule"), AttributeError, tmp_path)


@releases_of("test_first_glora_files_raise")
def test_first_glora_files_raise(release, tmp_path):
    refused(release, lycoris_job("2.2.0", "glora", "GLoRAModule"), RuntimeError, tmp_path)


@releases_of("test_no_alpha_raises")
def test_no_alpha_raises(release, tmp_path):
    job = lycoris_job(release, *LORA, alpha=4.0)  # alpha = rank, which is what its absence means
    del job.leaves["alpha"]
    refused(release, job, TypeError, tmp_path)


@releases_of("test_dylora_is_too_weak")
def test_dylora_is_too_weak(release, tmp_path, monkeypatch):
    monkeypatch.setattr("random.randint", lambda low, high: high)  # all blocks: the whole file
    job = lycoris_job(release, "dylora", "DyLoraModule", lora_dim=6, block_size=2)
    weaker(release, job, 2.0, tmp_path)


@releases_of("test_first_rs_lora_files_are_too_weak")
def test_first_rs_lora_files_are_too_weak(release, tmp_path):
    weaker(release, lycoris_job("3.0.0.post1", *LORA, rs_lora=True), math.sqrt(4), tmp_path)


def weaker(release, job, factor, folder):
    theirs = merged(release, job)
    torch.testing.assert_close((theirs - job.plain) * factor, job.truth - job.plain, rtol=1e-3, atol=1e-5)
    assert job.off(ours(job, folder)) < RIGHT


@releases_of("test_full_with_a_bias_raises")
def test_full_with_a_bias_raises(release, tmp_path):
    job = lycoris_job("4.1.3", "full", "FullModule")
    refused(release, job, TypeError, tmp_path)
    assert job.off(merged("4.1.3", job)) < RIGHT


@releases_of("test_oft_has_no_effect")
def test_oft_has_no_effect(release, tmp_path):
    job = lycoris_job(release, "diag_oft", "DiagOFTModule")
    assert torch.equal(merged(release, job), job.plain)
    assert job.off(ours(job, tmp_path)) < RIGHT
    assert job.off(merged("3.1.0", job)) < RIGHT
