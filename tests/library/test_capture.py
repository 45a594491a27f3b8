"""The graph of what a model computes: owners, readers, tensors; and what cannot be captured."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit.capture import capture, inputs_of, op_of
from bnretrofit.errors import InputRejectedError
from tests.library.networks import CalledTwice, Functional, Keywords, NeverCalled, Tied, chain, images, with_own_norms
from tests.library.observing import observed, part, run, same


def layer_calls(model: nn.Module, example: Any, **options: Any) -> list[tuple[str, str]]:
    graph = capture(model, example, **options)
    ops = ("aten.conv2d.default", "aten.linear.default")
    return [(graph.owners[node], op_of(node)) for node in graph.nodes if op_of(node) in ops]


def test_every_call_is_owned_by_the_module_that_ran_it() -> None:
    found = layer_calls(chain(), images())
    assert [name for name, _ in found] == ["0", "4", "8", "11"]
    assert [op for _, op in found] == ["aten.conv2d.default"] * 2 + ["aten.linear.default"] * 2


def test_a_second_call_is_owned_by_the_same_module() -> None:
    assert [name for name, _ in layer_calls(CalledTwice(), images())] == ["conv", "conv", "head"]


def test_a_module_under_two_names_goes_by_its_first() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(nn.Sequential(nn.ReLU(), shared), shared)
    assert [name for name, _ in layer_calls(model, torch.zeros(2, 3))] == ["0.1", "0.1"]


def test_a_functional_call_is_owned_by_the_module_around_it() -> None:
    assert [name for name, _ in layer_calls(Functional(), torch.zeros(2, 4))] == ["", "", "head"]


def test_the_mode_that_is_asked_for_is_captured() -> None:
    model, x = NeverCalled(), torch.zeros(2, 4)
    assert [name for name, _ in layer_calls(model, x)] == ["body", "head"]
    assert [name for name, _ in layer_calls(model, x, training=True)] == ["body", "head", "auxiliary"]


def test_the_graph_reads_the_model_s_own_tensors() -> None:
    model = Tied()
    graph = capture(model, torch.zeros(2, 4))
    first, second = (
        node
        for node in graph.nodes
        if graph.owners[node] in ("first", "second") and op_of(node).startswith("aten.linear")
    )
    for node in (first, second):
        use = graph.tensor(node.args[1])
        assert use is not None
        assert use.tensor is model.first.weight
    assert set(graph.uses(model.first.weight)) == {first, second}
    assert graph.uses(model.first.bias) == [first]
    assert graph.tensor(first.args[0]) is None
    assert graph.tensor("a word") is None


def test_inputs_and_results_are_nodes_of_the_graph() -> None:
    example = {"image": images(), "extra": torch.zeros(2, 2)}
    graph = capture(Keywords(), example)
    assert len(graph.inputs) == 2
    logits = inputs_of(graph.output)[0]
    assert graph.owners[logits] == "head"
    assert type(graph.owner(logits)) is nn.Linear


def test_a_constant_made_on_the_way_is_a_tensor_of_the_graph() -> None:
    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x + torch.tensor([1.0, 2.0])

    graph = capture(Shifted(), torch.zeros(3, 2))
    assert [use.tensor.tolist() for use in graph.tensors.values()] == [[1.0, 2.0]]


class Caching(nn.Module):
    """Keeps what it computed from its input's size, as timm's LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.cache: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Any:
        size = x.shape[-1]
        if size not in self.cache:
            self.cache[size] = torch.ones(size - 2) * part(self, "conv").bias[0]
        return self.conv(x) * self.cache[size]


@pytest.mark.parametrize("training", [False, True])
def test_a_model_is_left_as_it_was(training: bool) -> None:
    for model, example in ((chain(), images()), (with_own_norms(), images()), (nn.LSTM(3, 4), torch.randn(2, 5, 3))):
        model.train(not training)
        before = observed(model)
        capture(model, example, training=training)
        assert same(before, observed(model))


def test_no_fake_tensor_stays_in_what_a_model_caches() -> None:
    model = Caching()
    capture(model, images())
    assert model.cache == {}
    assert type(run(model, images())) is Tensor


def test_a_meta_model_is_captured_without_computing() -> None:
    with torch.device("meta"):
        model = chain()
    assert len(layer_calls(model, images())) == 4


def test_what_cannot_be_captured_is_refused_with_the_cause() -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x if bool(x.sum() > 0) else -x

    with pytest.raises(InputRejectedError, match=r"Deciding cannot be captured by torch.export: .*on tensor values"):
        capture(Deciding(), images())
    with pytest.raises(InputRejectedError, match="Sequential cannot be captured"):
        capture(chain(), images(channels=4))


def test_a_wrapped_model_is_refused_with_what_to_pass_instead() -> None:
    with pytest.raises(InputRejectedError, match=r"DistributedDataParallel. Pass model.module"):
        capture(nn.DataParallel(chain()), images())
    compiled: Any = torch.compile(chain())
    with pytest.raises(InputRejectedError, match=r"torch.compile. Pass model._orig_mod"):
        capture(compiled, images())
