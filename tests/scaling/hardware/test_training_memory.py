"""Memory of a training job against Korthikanti et al. 2022 and hand counts."""

from __future__ import annotations

import dataclasses

import pytest

import scaling
from scaling.hardware.architecture import Architecture
from scaling.hardware.devices import device
from scaling.hardware.memory import PRIORS, activation_bytes_per_layer, local_params, memory
from scaling.hardware.software import software
from scaling.hardware.workload import Layout, Workload

UNIT = {name: 1.0 for name in PRIORS} | {"cluster_share": 0.0, "one_chip_gb": 0.0}
PLAIN = Architecture(24, 6144, 64, 64, 96, 24576, 51200, ffn_matrices=2)


def job(layout: Layout, arch: Architecture = PLAIN) -> Workload:
    return Workload(arch, device(scaling.chip("A100")), layout, 2048, 512, software=software("Megatron-LM 2022"))


@pytest.mark.parametrize("tensor", [1, 2, 8])
def test_activations_with_sequence_parallelism(tensor):
    """34 s b h / t (equation 6 of arXiv 2205.05198), of which 2 are dropout masks that nobody keeps any more."""
    work = job(Layout(tensor=tensor, micro_batch=4))
    assert activation_bytes_per_layer(work) == pytest.approx(32 * 2048 * 4 * 6144 / tensor)


def test_activations_without_sequence_parallelism():
    """s b h (10 + 24 / t) (equation 2), less one dropout mask in each part: here 8 + 24 / t."""
    work = job(Layout(tensor=4, micro_batch=2, sequence_parallel=False))
    assert activation_bytes_per_layer(work) == pytest.approx(2048 * 2 * 6144 * (8 + 24 / 4))


def test_scores_are_kept_without_flash_attention():
    """5 a s / h more (equation 1) where scores are written out, gone with selective recomputation."""
    arch = dataclasses.replace(PLAIN, flash=False)
    with_scores = activation_bytes_per_layer(job(Layout(tensor=2), arch))
    assert with_scores - activation_bytes_per_layer(job(Layout(tensor=2))) == pytest.approx(5 * 64 * 2048 * 2048 / 2)
    assert activation_bytes_per_layer(job(Layout(tensor=2, recompute="selective"), arch)) < with_scores


def test_full_recomputation_keeps_the_input_only():
    assert activation_bytes_per_layer(job(Layout(recompute="full", micro_batch=3))) == 2 * 2048 * 3 * 6144


def test_states_of_adam_and_their_sharding():
    """2 + 4 + 12 bytes a parameter; ZeRO 1, 2, 3 divide the last, the last two, all (arXiv 1910.02054, figure 1)."""
    params = sum(local_params(job(Layout(data=8))))
    for stage, expected in ((0, 18.0), (1, 6 + 12 / 8), (2, 2 + 16 / 8), (3, 18 / 8)):
        found = memory(job(Layout(data=8, zero=stage)), UNIT)
        assert found.weights + found.gradients + found.optimizer == pytest.approx(expected * params)


def test_interleaving_holds_more_micro_batches():
    """1 + (p - 1) / (p v) times the activations (arXiv 2205.05198, section 4.2.3)."""
    plain = memory(job(Layout(pipeline=4, data=2)), UNIT).activations
    chunked = memory(job(Layout(pipeline=4, pipeline_chunks=3, data=2)), UNIT).activations
    assert chunked / plain == pytest.approx(1 + 3 / 12)


def test_parts_are_divided_once():
    whole = sum(local_params(job(Layout())))
    cut = sum(local_params(job(Layout(tensor=4, pipeline=2))))
    assert cut < whole / 7.5  # a stage holds one of the two embeddings
    assert cut > whole / 8.5


def test_more_of_anything_needs_more():
    base = job(Layout(tensor=2, data=4, micro_batch=2))
    need = memory(base).total
    more = [{"micro_batch": 4}, {"zero": 0}, {"tensor": 1}]
    less = [{"recompute": "full"}, {"zero": 3}, {"tensor": 4}, {"offload_optimizer": True}]
    for change in more:
        assert memory(dataclasses.replace(base, layout=dataclasses.replace(base.layout, **change))).total > need
    for change in less:
        assert memory(dataclasses.replace(base, layout=dataclasses.replace(base.layout, **change))).total < need
