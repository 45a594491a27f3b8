"""Errors say what, where, why and what to do, and cross process borders."""

import pickle

import pytest

from bnretrofit.errors import InputRejectedError, ResourceError, RetrofitError, UsageError, VerificationError


def test_an_error_reads_as_where_what_why_and_what_to_do() -> None:
    error = RetrofitError("it cannot be read", where="model.pth", why="it ends early", remedy="download it again")
    assert str(error) == "model.pth: it cannot be read: it ends early. Download it again"
    assert str(RetrofitError("it cannot be read")) == "it cannot be read"
    assert str(RetrofitError("no", remedy="'x' it")) == "no. 'x' it"


@pytest.mark.parametrize(
    ("kind", "code"),
    [(RetrofitError, 4), (UsageError, 2), (VerificationError, 3), (InputRejectedError, 4), (ResourceError, 5)],
)
def test_every_error_has_its_exit_code_and_is_of_one_family(kind: type[RetrofitError], code: int) -> None:
    assert kind.exit_code == code
    assert issubclass(kind, RetrofitError)


@pytest.mark.parametrize("kind", [RetrofitError, UsageError, VerificationError, InputRejectedError, ResourceError])
def test_an_error_survives_pickling(kind: type[RetrofitError]) -> None:
    error = kind("what", where="where", why=None, remedy="remedy")
    found = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(found) is kind
    assert (found.what, found.where, found.why, found.remedy) == ("what", "where", None, "remedy")
    assert str(found) == str(error)


def test_what_is_said_of_an_error_later_survives_too() -> None:
    error = UsageError("what").of("weight_decay")
    error.add_note("more")
    found = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (found.settings, found.__notes__, str(found)) == (("weight_decay",), ["more"], "what")
