"""What would be admitted under one reading and read under another is refused: archives, names, attributes, keys."""

import io
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from bnretrofit import checkpoints
from bnretrofit.errors import InputRejectedError

DIRECTORY_END = 22


def saved(path: Path, content: Any = None) -> Path:
    torch.save({"a": torch.ones(3)} if content is None else content, path)
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["DATA.PKL", "data/0".upper(), "Version"])
def test_names_that_differ_in_case_only_are_one_name_to_torch(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / "twice.pth")
    content = members(path)
    packed(path, {**content, f"twice/{name}": content.get(f"twice/{name.lower()}", b"3\n")})
    with pytest.raises(InputRejectedError, match="the same name"):
        checkpoints.read(path)


def test_an_archive_with_two_directories_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "two.pth")
    raw = path.read_bytes()
    longer = raw.rindex(b"PK\6\6")
    for changed in (
        raw[:longer] + b"PK\0\0" + raw[longer + 4 :],
        # The record, and another one before the locator.
        raw[:-42] + raw[longer : longer + 56] + raw[-42:],
        # The shorter record tells another place.
        raw[:-6] + struct.pack("<L", 7) + raw[-2:],
        # And another number of members.
        raw[: longer + 24] + struct.pack("<QQ", 1, 1) + raw[longer + 40 :],
    ):
        path.write_bytes(changed)
        with pytest.raises(InputRejectedError):
            checkpoints.read(path)


def test_a_member_with_a_second_name_is_refused(tmp_path: Path) -> None:
    path, file = saved(tmp_path / "named.pth"), io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members(path).items():
            info = zipfile.ZipInfo(name)
            if name.endswith("data.pkl"):
                other = b"\x01\0\0\0\0named/other"
                info.extra = struct.pack("<HH", 0x7075, len(other)) + other
            archive.writestr(info, data)
    path.write_bytes(file.getvalue())
    with pytest.raises(InputRejectedError, match="named in two ways"):
        checkpoints.read(path)


@pytest.mark.parametrize("name", ["numel", "data", "detach", "shape"])
def test_attributes_that_change_what_a_tensor_is_are_refused(tmp_path: Path, name: str) -> None:
    class Odd(torch.nn.Parameter):
        def __reduce_ex__(self, _protocol: Any) -> Any:
            plain = torch.full((3,), float("nan"))
            arguments = plain.__reduce_ex__(2)[1]
            build, parameter = torch._utils._rebuild_tensor_v2, torch.nn.Parameter
            return (torch._tensor._rebuild_from_type_v2, (build, parameter, arguments, {name: torch.Size}))

    path = saved(tmp_path / "odd.pth", {"a": Odd(torch.ones(3))})
    with pytest.raises(InputRejectedError, match="attributes that change what it is"):
        checkpoints.read(path)


def test_a_dictionary_whose_methods_are_replaced_is_refused(tmp_path: Path) -> None:
    state: Any = OrderedDict(a=torch.ones(2))
    state.values = 1
    with pytest.raises(InputRejectedError, match="changes what it has made"):
        checkpoints.read(saved(tmp_path / "items.pth", state))


class Calls:
    """Hands one list to each of many."""

    def __init__(self, made: Any, given: Any, times: int) -> None:
        self.made, self.given, self.times = made, given, times

    def __reduce__(self) -> Any:
        return (OrderedDict, ([],), None, None, iter((i, _Call(self.made, self.given)) for i in range(self.times)))


class _Call:
    def __init__(self, made: Any, given: Any) -> None:
        self.call = made, (given,)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("made", [torch.Size, set, OrderedDict])
def test_one_list_handed_to_thousands_is_refused_in_little_memory(tmp_path: Path, made: Any) -> None:
    given = [(str(i), i) for i in range(5000)] if made is OrderedDict else list(range(5000))
    content = {"a": torch.ones(2), "rest": Calls(made, given, 20_000)}
    with pytest.raises(InputRejectedError, match="the same things over again"):
        checkpoints.read(saved(tmp_path / "bomb.pth", content))


def test_keys_of_storages_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"a": torch.ones(2), "b": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    # X <length> <key> becomes a number of one byte and pads.
    start = raw.index(b"X", raw.index(b"FloatStorage"))
    length = struct.unpack_from("<L", raw, start + 1)[0]
    path.write_bytes(raw[:start] + b"K\0" + raw[start + 5 + length :])
    with pytest.raises(InputRejectedError):
        checkpoints.read(path)


@pytest.mark.parametrize("path", ["y" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_is_one_clear_error(path: str) -> None:
    with pytest.raises(InputRejectedError, match="cannot be read"):
        checkpoints.read(Path(path))


def test_a_state_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": 3}
    content["model"] = content
    with pytest.raises(InputRejectedError, match="no state_dict"):
        checkpoints.read(saved(tmp_path / "loop.pth", content))


def test_a_part_without_tensors_is_not_taken_for_the_weights(tmp_path: Path) -> None:
    weights = {"0.weight": torch.ones(2)}
    for content in (
        {"net": {"depth": 1}, "weights": weights},
        {"model_ema": {"decay": 0.9, "updates": 3}, "model": weights},
        {"model_ema": {"module": weights, "decay": 0.9}, "model": {"0.weight": torch.zeros(2)}},
    ):
        found = checkpoints.read(saved(tmp_path / "parts.pth", content))
        assert torch.equal(found.tensors["0.weight"], weights["0.weight"])
