"""What two ranks that fine-tune have in common, also where their norms are of a making that nothing is known of."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bnretrofit.training import finetune_on
from bnretrofit.training.memory_keeper import MemoryKeeper
from bnretrofit.training_data import TrainingSource, open_training
from tests.library.class_folders import COLOURS, SMALL, draw
from tests.library.finetuning_cases import config
from tests.library.two_ranks import RANKS, together

# A machine with one core is told that it has one.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Scaled(nn.BatchNorm2d):
    """A norm that does more than normalise."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Module's own name for it
        return 2 * super().forward(input)


def learning(rank: int, place: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS))
    # Accelerate asks for them, although the ranks have met already.
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.manual_seed(1)
    conv = (nn.Conv2d(3, 6, 3), Scaled(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    model = nn.Sequential(*conv, nn.Flatten(), nn.Linear(6, 3)).eval()
    keeper = MemoryKeeper()
    data = open_training(TrainingSource(str(place / "images"), SMALL, batch_size=4))
    finetune_on(model, data, config(epochs=2, ema_decay=0.5), device="cpu", keeper=keeper)
    assert keeper.state is not None
    torch.save([keeper.state.tensors, keeper.kept["last"].tensors], place / f"{rank}.pt")


def test_ranks_end_with_the_same_network_whatever_its_norms_are(tmp_path: Path) -> None:
    for name, colour in COLOURS.items():
        for number in range(8):
            draw(tmp_path / "images" / name / f"{number}.png", colour, number)
    together(learning, tmp_path)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS))
    for mine, theirs in zip(one, other, strict=True):
        assert list(mine) == list(theirs)
        for name in mine:
            if not name.startswith("optimizer."):
                assert torch.equal(mine[name], theirs[name]), name
    assert not torch.equal(one[1]["1.running_mean"], torch.zeros(6))
