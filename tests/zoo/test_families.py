"""A slice of the zoo: twelve networks that have every kind of layer between them, and the check's own mistakes."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bnretrofit
from benchmarks.zoo import recorded
from benchmarks.zoo_checks import LAYERS, check, misses
from benchmarks.zoo_list import Entry
from benchmarks.zoo_models import subject_of, tensors_of
from benchmarks.zoo_page import page
from benchmarks.zoo_processes import watched

STAGES = {"width_list": [8, 8, 8, 8, 16], "depth_list": [0, 0, 0, 0, 1]}
# Most are cut short, since the time goes into capturing one layer after the other.
SLICE = [
    Entry("classification", "alexnet"),
    Entry("classification", "mobilenet_v2", options={"inverted_residual_setting": [[1, 16, 1, 1], [6, 24, 2, 2]]}),
    Entry("timm", "densenet121", options={"block_config": (2,), "growth_rate": 8}),
    Entry("timm", "resnet10t", options={"channels": [32] * 4, "block_args": {"attn_layer": "eca"}}),
    Entry("timm", "vit_tiny_r_s16_p8_224", options={"depth": 1}),
    Entry("timm", "vit_tiny_patch16_224", options={"depth": 1}),
    Entry("timm", "beit_base_patch16_224", options={"depth": 1, "embed_dim": 64, "num_heads": 2}),
    Entry("timm", "swin_tiny_patch4_window7_224", options={"depths": (1,), "embed_dim": 24, "num_heads": (1,)}),
    Entry("timm", "mambaout_femto", options={"depths": (1,), "dims": (16,)}),
    Entry("timm", "vit_tiny_patch16_dinov3_qkvb", options={"depth": 1}),
    Entry("timm", "lowformer_b0", options={**STAGES, "fused_conv": False, "expand_groups": 2}),
    Entry("video", "r3d_18"),
]
SMALL = SLICE[1]


@pytest.mark.parametrize("entry", SLICE, ids=lambda entry: entry.key)
def test_a_network_goes_through_all_of_it(entry: Entry) -> None:
    record = check(entry)
    assert record["outcome"] == "done", record["error"]
    assert record["plan"]["accounted"]
    assert record["identity"]["bit_identical"]
    assert record["proof"]["proved"]
    assert record["round_trip"]["bit_for_bit"]
    assert record["untouched"]
    assert not misses(record)


def test_the_slice_has_every_kind_of_layer() -> None:
    found = {kind for entry in SLICE for kind in kinds(entry)}
    plain = {"Conv1d", "Conv2d", "depthwise Conv2d", "grouped Conv2d", "depthwise ConvTranspose2d", "StdConv2dSame"}
    other = {"Conv3DSimple", "BatchNorm2d", "BatchNormAct2d", "BatchNorm3d", "Linear never called"}
    assert {*plain, *other, "Linear of rank 2", "Linear of rank 3", "Linear of rank 4"} <= found


def kinds(entry: Entry) -> Iterator[str]:
    """What a network is made of; of its dense layers, on inputs of which rank they are called."""
    subject = subject_of(entry)
    ranks: dict[nn.Module, int] = {}

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        ranks[layer] = inputs[0].dim()

    modules = list(subject.network.modules())
    for module in modules:
        module.register_forward_pre_hook(look) if isinstance(module, nn.Linear) else None
    tensors_of(subject.network, subject.inputs(2, 0))
    for module in modules:
        kind = type(module).__name__
        if isinstance(module, nn.Linear):
            yield f"Linear of rank {ranks[module]}" if module in ranks else "Linear never called"
        elif isinstance(module, LAYERS) and module.groups != 1:
            yield f"{'depthwise' if module.groups == module.in_channels else 'grouped'} {kind}"
        else:
            yield kind


def test_wrong_answers_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    insert, fold, make_plan = bnretrofit.insert, bnretrofit.fold, bnretrofit.make_plan

    def forgetful(*args: Any) -> Any:
        plan = make_plan(*args)
        object.__setattr__(plan, "skips", plan.skips[1:])
        return plan

    def off(model: nn.Module) -> nn.Module:
        with torch.no_grad():
            next(model.parameters()).mul_(1.001)
        return model

    monkeypatch.setattr(bnretrofit, "make_plan", forgetful)
    monkeypatch.setattr(bnretrofit, "insert", lambda *args: off(insert(*args)))
    monkeypatch.setattr(bnretrofit, "fold", lambda *args: off(fold(*args)))
    record = check(SMALL)
    begins = ("not accounted for: features.0.0", "not bit-identical", "not proved", "round trip", "fold: error")
    assert len(misses(record)) == len(begins)
    assert all(sentence.startswith(begin) for sentence, begin in zip(misses(record), begins, strict=True))


def test_a_changed_network_and_an_error_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(model: nn.Module, *args: Any) -> Any:
        model.train()
        raise RuntimeError("no plan\nat all")

    monkeypatch.setattr(bnretrofit, "make_plan", spoilt)
    record = check(SMALL)
    assert misses(record)[0] == "plan: RuntimeError: no plan"
    assert misses(record)[-1] == "the network was changed"
    assert record["outcome"] == "error"


SPOKEN = (
    'print(\'{"key": "timm:a", "group": "timm", "family": "", "part": "", "step": "plan", "error": null}\', flush=True)'
)


@pytest.mark.parametrize(
    ("outcome", "code", "reason"),
    [
        ("time", "import time; time.sleep(60)", "not done after 2 s"),
        ("memory", "held = bytearray(400 << 20); import time; time.sleep(60)", "GiB resident, the bound is 0.25"),
        ("crash", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("crash", "raise MemoryError('none left')", "exit status 1: MemoryError: none left"),
    ],
)
def test_a_process_that_does_not_end_well_leaves_a_record(outcome: str, code: str, reason: str) -> None:
    entry = Entry("timm", "a")
    ending = watched([sys.executable, "-c", f"{SPOKEN}; {code}"], seconds=2, memory=2**28)
    record = json.loads(json.dumps(recorded(entry, ending)))
    assert record["outcome"] == outcome
    assert record["error"]["step"] == "plan"
    assert reason in record["error"]["message"]
    assert f"| `timm:a` | plan: {outcome}: {record['error']['message']} |" in page([record], [entry])
