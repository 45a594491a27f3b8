"""What a user may choose, and what an unknown choice is answered with."""

import pytest

from bnretrofit.choices import Choices, nearest
from bnretrofit.errors import UsageError

NAMES = ["features.0", "features.3", "classifier.0"]


def choices(
    include: list[str] | None = None, exclude: list[str] | None = None, layers: tuple[str, ...] = ("conv", "dense")
) -> Choices:
    return Choices.checked(include=include, exclude=exclude, layers=layers, placement="pre")


def test_the_nearest_names_are_offered() -> None:
    assert nearest("vgg-16", ["vgg16", "vgg19", "resnet50"], 1) == "did you mean vgg16?"
    assert nearest("zzz", ["vgg16"]) == ""


def test_without_choices_every_layer_is_taken() -> None:
    assert choices().reason_against("features.0", "Conv2d") is None
    assert choices().reason_against("classifier.0", "Linear") is None


def test_a_family_that_was_not_asked_for_is_left_out() -> None:
    only = choices(layers=("conv",))
    assert only.reason_against("features.0", "ConvTranspose1d") is None
    reason = only.reason_against("classifier.0", "Linear")
    assert reason == "it is a dense layer, and only conv layers were asked for"


def test_patterns_are_globs_over_whole_names() -> None:
    some = choices(include=["features.*"], exclude=["*.3"])
    assert some.reason_against("features.0", "Conv2d") is None
    assert some.reason_against("features.3", "Conv2d") == "it is excluded by the pattern '*.3'"
    assert some.reason_against("classifier.0", "Linear") == "no --include pattern matches it"
    assert choices(include=["features"]).reason_against("features.0", "Conv2d") == "no --include pattern matches it"


def test_only_a_full_name_names_a_layer() -> None:
    assert choices(include=["classifier.0"]).names("classifier.0")
    assert not choices(include=["classifier.*"]).names("classifier.0")
    assert not choices().names("classifier.0")


def test_one_word_is_as_good_as_a_list_of_one() -> None:
    found = Choices.checked(include="features.*", exclude="*.3", layers="conv", placement="pre")
    assert found == choices(include=["features.*"], exclude=["*.3"], layers=("conv",))


def test_patterns_that_match_are_accepted() -> None:
    choices(include=["features.?"], exclude=["classifier.*"]).check_patterns(NAMES)


@pytest.mark.parametrize("where", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_an_error_with_the_nearest_name(where: str) -> None:
    found = choices(include=["feature.0"]) if where == "include" else choices(exclude=["feature.0"])
    with pytest.raises(UsageError, match=r"'feature.0' matches no conv or dense layer. Did you mean features.0"):
        found.check_patterns(NAMES)


def test_a_container_s_name_is_answered_with_the_glob_for_what_is_inside() -> None:
    with pytest.raises(UsageError, match=r"'features.\*' matches the layers inside it"):
        choices(exclude=["features"]).check_patterns(NAMES)


@pytest.mark.parametrize(
    ("layers", "placement", "message"),
    [
        (("conv", "linear"), "pre", "unknown layer family 'linear'. Choose from conv, dense"),
        ((), "pre", "no layer family is chosen"),
        (("conv",), "behind", "placement 'behind'"),
    ],
)
def test_an_unknown_choice_is_an_error_that_names_it(layers: tuple[str, ...], placement: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Choices.checked(include=None, exclude=None, layers=layers, placement=placement)
