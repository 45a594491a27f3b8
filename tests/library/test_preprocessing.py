"""Preprocessing as data: overridden, said, and to JSON and back."""

import json
from typing import Any

import pytest

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.preprocessing import Preprocessing

GIVEN = Preprocessing((3, 32, 48), (0.5, 0.4, 0.3), (0.2, 0.2, 0.25), "bicubic", 0.875, "squash")


def test_it_survives_json() -> None:
    assert Preprocessing.from_json(json.loads(json.dumps(GIVEN.to_json()))) == GIVEN
    unsized = Preprocessing((1, None, None))
    assert Preprocessing.from_json(json.loads(json.dumps(unsized.to_json()))) == unsized


def test_nothing_asked_for_changes_nothing() -> None:
    assert GIVEN.overridden() == GIVEN


def test_each_value_can_be_overridden() -> None:
    changed = GIVEN.overridden(img_size=64, mean=(0.1,), std=(1.0, 2.0, 3.0), interpolation="nearest", crop_pct=1.0)
    assert changed == Preprocessing((3, 64, 64), (0.1,), (1.0, 2.0, 3.0), "nearest", 1.0, "squash")
    assert GIVEN.input_size == (3, 32, 48)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": (0.1, 0.2)}, "--mean takes 1 or 3 values: 2"),
        ({"std": ()}, "--std takes 1 or 3 values: 0"),
        ({"std": (0.1, 0.0, 0.1)}, "--std must be positive"),
        ({"std": (float("nan"),)}, "--std"),
        ({"mean": (float("inf"),)}, "--mean"),
        ({"crop_pct": 0.0}, "--crop-pct"),
        ({"crop_pct": 1.01}, "--crop-pct"),
        ({"crop_pct": float("nan")}, "--crop-pct"),
        ({"img_size": 0}, "--img-size"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        GIVEN.overridden(**changes)


def test_a_grey_model_takes_one_value() -> None:
    grey = Preprocessing((1, 28, 28))
    assert grey.overridden(mean=(0.13,)).mean == (0.13,)
    with pytest.raises(UsageError, match="--mean takes 1 "):
        grey.overridden(mean=(0.1, 0.1, 0.1))


@pytest.mark.parametrize(("option", "value"), [("crop_pct", 0.9), ("interpolation", "bicubic")])
def test_what_is_of_a_resize_is_refused_where_nothing_is_resized(option: str, value: Any) -> None:
    name = f"--{option.replace('_', '-')}"
    with pytest.raises(UsageError, match=f"{name} needs --img-size"):
        Preprocessing((3, None, None)).overridden(**{option: value})
    changed = Preprocessing((3, None, None)).overridden(img_size=8, **{option: value})
    assert getattr(changed, option) == value


@pytest.mark.parametrize(
    "document", [None, [], "text", {}, {"input_size": None}, {"unknown": 1}, {**GIVEN.to_json(), "mean": None}]
)
def test_a_document_of_another_form_is_rejected(document: Any) -> None:
    with pytest.raises(InputRejectedError, match="preprocessing is damaged"):
        Preprocessing.from_json(document)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("input_size", value) for value in ([3, 32], [3, 32, 32, 32], [], 3, "abc", [None, 8, 8], [3, 0, 8])],
        *[("input_size", value) for value in ([3, 8.5, 8], [3, "8", 8], [True, 8, 8])],
        *[("stored_size", value) for value in ([8], [8, 8, 8], [], 0, 8, [None, 8], [8, 0], [8, 1.5])],
    ],
)
def test_a_size_that_is_none_is_named(field: str, value: Any) -> None:
    with pytest.raises(InputRejectedError, match=f"preprocessing is damaged: {field} "):
        Preprocessing.from_json({**GIVEN.to_json(), field: value})


def test_sizes_that_make_up_for_one_another_are_refused_each() -> None:
    with pytest.raises(InputRejectedError, match="input_size"):
        Preprocessing.from_json({"input_size": [3, 32, 32, 32], "stored_size": [8]})
    stored = {"input_size": [3, None, None], "stored_size": [8, 12]}
    assert Preprocessing.from_json(stored).stored_size == (8, 12)
    assert Preprocessing.from_json({**stored, "stored_size": None}).stored_size is None


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (GIVEN, "RGB / 255, 32 x 48 px, crop 0.875, bicubic, mean 0.5 0.4 0.3, std 0.2 0.2 0.25"),
        (Preprocessing((1, None, None)), "grey / 255, stored size, mean 0, std 1"),
        (Preprocessing((4, 8, 8), (0.5,) * 4), "4 channels / 255, 8 x 8 px, crop 1, bilinear, mean 0.5, std 1"),
    ],
)
def test_it_is_said_in_a_line(given: Preprocessing, text: str) -> None:
    assert str(given) == text
