"""Models as people hold them: traced, wrapped, compiled, in channels_last."""

import sys
from typing import Any

import pytest
import torch
import torchvision
from torch import fx, nn
from torchvision.models.feature_extraction import create_feature_extractor

from bnretrofit import calibrate, fold, insert, make_fold_plan, make_plan, retrofit, verify
from bnretrofit.errors import InputRejectedError
from tests.library.networks import chain, images, with_own_norms
from tests.library.observing import equal_states, part, run


def test_a_traced_module_is_edited_like_any_other() -> None:
    model: nn.Module = fx.symbolic_trace(chain())
    x = images(8)
    plan = make_plan(model, x)
    assert [site.name for site in plan.sites] == [site.name for site in make_plan(chain(), x).sites]
    result = retrofit(model, [x])
    assert isinstance(result, fx.GraphModule)
    assert torch.equal(run(result, x), run(model, x))
    assert verify(model, result, [x]).proved
    folded = fold(result, x)
    assert equal_states(folded, model)
    assert torch.equal(run(folded, x), run(model, x))


@pytest.mark.parametrize(
    ("wrapped", "remedy"),
    [
        (lambda model: torch.compile(model, backend="eager"), "pass model._orig_mod"),
        (nn.DataParallel, "pass model.module"),
        (lambda model: torch.jit.trace(model, images(2)), "pass the model before torch.jit"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_wrapped_model_is_refused_with_what_to_pass(wrapped: Any, remedy: str) -> None:
    model, x = wrapped(chain()), images(4)
    plan = make_plan(chain(), x)
    calls = (
        lambda: make_plan(model, x),
        lambda: calibrate(model, plan, [x]),
        lambda: insert(model, plan, calibrate(chain(), plan, [x])),
        lambda: retrofit(model, [x]),
        lambda: fold(model, x),
    )
    for call in calls:
        with pytest.raises(InputRejectedError) as error:
            call()
        assert error.value.remedy == remedy


@pytest.mark.skipif(sys.platform == "win32", reason="no gloo over files")
def test_a_distributed_model_is_refused_with_what_to_pass(tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(chain())
        with pytest.raises(InputRejectedError, match=r"wrapped by DistributedDataParallel"):
            make_plan(model, images())
    finally:
        torch.distributed.destroy_process_group()


def test_a_model_in_channels_last_stays_so() -> None:
    model = chain().to(memory_format=torch.channels_last)
    x = images(8).to(memory_format=torch.channels_last)
    result = retrofit(model, [x])
    convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    for name in convs:
        assert part(result, f"{name}.layer").weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(run(result, x), run(model, x))
    folded = fold(result, x)
    for name in convs:
        assert part(folded, name).weight.stride() == part(model, name).weight.stride()
    assert equal_states(folded, model)


def test_a_traced_part_is_edited_in_its_place() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head = fx.symbolic_trace(chain()), nn.Linear(5, 2)

        def forward(self, x: Any) -> Any:
            return self.head(self.trunk(x).relu())

    model, x = Holder().eval(), images(8)
    result = retrofit(model, [x])
    assert {"trunk.0.norm", "trunk.4.norm", "trunk.8.norm", "trunk.11.norm"} <= {n for n, _ in result.named_modules()}
    assert verify(model, result, [x]).proved
    assert equal_states(fold(result, x), model)


def test_an_exported_program_has_no_layers_and_no_norms_to_edit() -> None:
    x = images(4)
    program: Any = torch.export.export(with_own_norms().eval(), (x,)).module()
    plan = make_plan(program, x)
    assert not plan.sites
    assert {skip.name for skip in plan.skips if skip.kind == "functional"} == {"0.weight", "3.weight", "8.weight"}
    left = make_fold_plan(program, x).leaves
    assert {leave.name: leave.kind for leave in left} == {"1": "functional", "4": "functional"}
    assert "there is no BatchNorm module to take out" in left[0].reason


def test_a_feature_extractor_keeps_its_mode() -> None:
    network = torchvision.models.squeezenet1_0(num_classes=5).eval()
    model, x = create_feature_extractor(network, ["classifier"]), torch.randn(2, 3, 65, 65)
    result = retrofit(model, [x])
    assert not any(module.training for found in (result, fold(result, x)) for module in found.modules())
    assert torch.equal(run(result, x)["classifier"], run(model, x)["classifier"])


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_part_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), torch.jit.script(nn.ReLU()))
    with pytest.raises(InputRejectedError, match="1: a scripted module"):
        make_plan(model, images(2))
