"""The end of a run: statistics measured with the final weights, and the better of the best and the last epoch kept."""

from typing import Any

from torch import Tensor, nn

from bnretrofit.norms import running_norms
from bnretrofit.scales import scales_of
from bnretrofit.training.best_weights import best_weights
from bnretrofit.training.devices import share_buffers
from bnretrofit.training.evaluation import evaluate_on_ranks
from bnretrofit.training.history import Epoch, History
from bnretrofit.training.measuring import measured, training_images
from bnretrofit.training.protocols import Keeper, TrainingSet
from bnretrofit.training.results import Result, Results

__all__ = ["finished"]


def finished(
    model: nn.Module,
    last: dict[str, Tensor],
    data: TrainingSet,
    history: History,
    accelerator: Any,
    keeper: Keeper,
    *,
    batch_statistics: bool,
) -> Results:
    """Measure and judge the weights of the last and of the best epoch, and keep both.

    The best epoch was chosen by running statistics, which lag behind: where the last one is better once both are
    measured, its weights are the best ones.

    Args:
        model: It ends with the best weights.
        last: The weights that training ended with.
        data: What was learnt from.
        history: Of the run.
        accelerator: Accelerate's view of this process.
        keeper: Where the run is kept.
        batch_statistics: Whether running statistics have moved.

    Raises:
        InputRejectedError: The best weights are missing, or the statistics cannot be measured.
        ResourceError: Memory does not suffice to measure them. Then, too, the last weights are kept as they are.
    """
    at_end, at_best = history.epochs[-1], history.best or history.epochs[-1]
    accelerator.wait_for_everyone()
    kept = None if at_best == at_end else best_weights(keeper, history)
    # All have read the best weights before anybody writes them anew.
    accelerator.wait_for_everyone()
    judge = _Judge(model, data, accelerator, lags=batch_statistics and bool(running_norms(model)))
    model.load_state_dict(last)
    try:
        result = judge.result(at_end)
    except Exception:
        # What was trained is kept as it is, whatever is the matter with its statistics: memory may have run out.
        keeper.keep("last", last, at_end, measured=False)
        raise
    last = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    keeper.keep("last", last, result.as_judged, measured=True)
    best = None
    if kept is not None and kept.epoch == at_best.epoch:
        model.load_state_dict(kept.tensors)
        best = judge.result(at_best, already=kept.measured)
    if best is None or result.is_better_than(best):
        model.load_state_dict(last)
        best = result
    keeper.keep("best", model.state_dict(), best.as_judged, measured=True)
    return Results(history, best, result)


class _Judge:
    """Measures the statistics of weights, and judges them.

    Args:
        model: Has the weights.
        data: What was learnt from.
        accelerator: Accelerate's view of this process.
        lags: Whether its running statistics lag behind.
    """

    def __init__(self, model: nn.Module, data: TrainingSet, accelerator: Any, *, lags: bool) -> None:
        self._model, self._data, self._accelerator, self._lags = model, data, accelerator, lags
        self._images: list[Tensor] = []

    def result(self, epoch: Epoch, *, already: bool = False) -> Result:
        """What the model's weights are worth; its statistics are those that were measured afterwards.

        Args:
            epoch: Which one's they are. Epoch 0 is the model as it came, and nothing of it lags behind.
            already: They were measured before.
        """
        ratios: tuple[float, float] | None = None
        if self._lags and not already and epoch.step:
            self._images = self._images or training_images(self._data)
            found = measured(self._model, self._images, quiet=not self._accelerator.is_main_process)
            self._model.load_state_dict(found.model.state_dict())
            share_buffers(self._accelerator, self._model)
            ratios = found.ratios
        norms = running_norms(self._model)
        judged = evaluate_on_ranks(self._model, self._data, self._accelerator)
        return Result(epoch, judged, scales_of(norms) if norms else None, ratios)
