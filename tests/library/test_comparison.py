"""The report as text and JSON, and the tolerances."""

import dataclasses
import json
import math
from itertools import pairwise

import torch

from bnretrofit import Report
from bnretrofit.comparison import TOLERANCES, tolerance_for

REPORT = Report(
    passed=False,
    proved=False,
    bit_identical=False,
    max_abs_error=0.5,
    mean_abs_error=0.1,
    p99_abs_error=0.4,
    max_rel_error=float("inf"),
    required_rtol=float("nan"),
    rtol=1e-4,
    atol=1e-6,
    top1_agreement=0.75,
    samples=12,
    random_samples=4,
    difference="the tensor 0.weight differs by 0.01 of its largest element",
    layer="0",
    tensor_error=0.01,
    reason="an output is NaN or infinite",
    notes=("no random inputs were tried",),
)


def test_a_report_is_a_json_document_also_with_figures_that_json_does_not_have() -> None:
    document = json.loads(json.dumps(REPORT.to_json(), allow_nan=False))
    assert document["max_rel_error"] == "inf"
    assert document["required_rtol"] == "nan"
    assert document["max_abs_error"] == 0.5
    assert document["notes"] == ["no random inputs were tried"]
    assert document.keys() == {item.name for item in dataclasses.fields(Report)}


def test_a_failed_report_says_why_and_where() -> None:
    text = str(REPORT)
    assert text.startswith("FAILED: not proved; not bit-identical on 12 samples and 4 random")
    for said in ("max 0.5", "75.00 %", "0.weight differs", "layer       0", "NaN or infinite", "no random inputs"):
        assert said in text


def test_a_passed_report_says_how_strongly() -> None:
    passed = dataclasses.replace(REPORT, passed=True, proved=True, bit_identical=True, reason=None, notes=())
    text = str(dataclasses.replace(passed, top1_agreement=None, difference=None, layer=None))
    assert text.startswith("PASSED: proved equal for every finite input; bit-identical on 12")
    for left_out in ("top-1", "difference", "layer", "reason", "note"):
        assert left_out not in text


def test_a_coarser_dtype_has_a_wider_tolerance() -> None:
    order = [TOLERANCES[dtype] for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)]
    for finer, coarser in pairwise(order):
        assert finer.rtol < coarser.rtol
        assert finer.atol < coarser.atol
        assert finer.tensor < coarser.tensor
    assert all(math.isfinite(value) for tolerance in order for value in dataclasses.astuple(tolerance))


def test_a_dtype_without_a_tolerance_has_that_of_float32() -> None:
    assert tolerance_for(torch.int64) == tolerance_for(torch.float32)


def test_one_per_cent_of_a_weight_is_beyond_the_tolerance_of_float32() -> None:
    assert TOLERANCES[torch.float32].tensor < 0.01 / 10
