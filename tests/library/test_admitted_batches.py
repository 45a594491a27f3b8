"""Batches from Python that fine-tuning and evaluation refuse: each with one error that says what was wrong."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit.errors import InputRejectedError, TrainingDivergedError
from bnretrofit.training import finetune
from bnretrofit.training.admitted_batches import check_labels
from bnretrofit.training.evaluation import evaluate
from bnretrofit.training.loaders import LoaderSet
from bnretrofit.training.logits import logits_on
from bnretrofit.training.measuring import training_images
from bnretrofit.training.rate_range import find_rate
from tests.library.finetuning_cases import BATCH, CLASSES, config, network, samples, with_norms

IMAGES, LABELS = samples()[0]

WRONG: dict[str, tuple[Any, str]] = {
    "float labels": ((IMAGES, LABELS.float()), "the labels are float32"),
    "bool labels": ((IMAGES, LABELS > 1), "the labels are bool"),
    "one-hot labels": (
        (IMAGES, nn.functional.one_hot(LABELS, CLASSES)),
        r"the labels have the shape \(16, 4\).*labels.argmax\(1\)",
    ),
    "a list of labels": ((IMAGES, LABELS.tolist()), "the labels are a list"),
    "an array of images": ((IMAGES.numpy(), LABELS), "the images are a ndarray"),
    "a dict": ({"image": IMAGES, "label": LABELS}, "the batch is a dict"),
    "no pair": (IMAGES, "the batch is a Tensor"),
    "images alone": ([IMAGES], "the batch has 1 entry"),
    "three": ((IMAGES, LABELS, LABELS), "the batch has 3 entries"),
    "fewer labels": ((IMAGES, LABELS[:-1]), "there are 16 images and 15 labels"),
    "no batch": ((torch.tensor(1.0), LABELS), "there are no images and 16 labels"),
    "empty": ((IMAGES[:0], LABELS[:0]), "the batch is empty"),
    "uint8": ((IMAGES.byte(), LABELS), "run on uint8 images.*Convert them to float32, and scale them"),
    "float64": ((IMAGES.double(), LABELS), "run on float64 images.*Convert them to float32"),
    "float16": ((IMAGES.half(), LABELS), "run on float16 images.*Convert them to float32"),
    "channels": ((IMAGES[:, :1], LABELS), r"run on float32 images of shape \(1, 6, 6\).*channels"),
    "size": ((IMAGES[..., :2, :2], LABELS), r"run on float32 images of shape \(3, 2, 2\).*--img-size"),
}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return with_norms()


@pytest.mark.parametrize("case", WRONG)
def test_a_batch_that_cannot_be_worked_with_is_refused_wherever_it_comes(case: str, model: nn.Module) -> None:
    batch, said = WRONG[case]
    with pytest.raises(InputRejectedError, match=said):
        finetune(model, [batch], None, config())
    with pytest.raises(InputRejectedError, match=said):
        finetune(model, samples(), [batch], config())
    # The first batch is fine, and the second is not.
    with pytest.raises(InputRejectedError, match=said):
        finetune(model, [*samples()[:1], batch], None, config(steps=4, warmup_steps=0))


@pytest.mark.parametrize("case", ["three", "float labels"])
def test_what_was_not_trained_on_is_looked_at_before_statistics_are_measured(case: str) -> None:
    batch, said = WRONG[case]
    with pytest.raises(InputRejectedError, match=f"training batch 2: {said}"):
        training_images(LoaderSet([samples()[0], batch], None))


def test_it_is_said_which_batch_it_is() -> None:
    with pytest.raises(InputRejectedError, match="the first training batch: the batch is a dict"):
        finetune(with_norms(), [{}], None, config())  # type: ignore[list-item]
    with pytest.raises(InputRejectedError, match="validation batch 2: the batch is empty"):
        evaluate(network(), [samples()[0], (IMAGES[:0], LABELS[:0])])


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_labels_may_be_of_any_integers(dtype: torch.dtype) -> None:
    given = [(images, labels.to(dtype)) for images, labels in samples()]
    settings = config(epochs=1, label_smoothing=0.1)
    assert finetune(with_norms(), given, given, settings) == finetune(with_norms(), samples(), samples(), settings)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_the_label_that_is_out_of_range_is_named(label: int) -> None:
    labels = torch.arange(BATCH) % CLASSES
    labels[3] = label
    with pytest.raises(InputRejectedError, match=f"a label is {label}: the network has 4 outputs"):
        check_labels(labels, CLASSES)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_named_and_not_the_learning_rate(value: float) -> None:
    images = IMAGES.clone()
    images[2, 1, 0, 0] = value
    wrong = [*samples()[:2], (images, LABELS), *samples()[3:]]
    with pytest.raises(InputRejectedError, match="step 3: the images hold values that are NaN or infinite"):
        finetune(with_norms(), wrong, samples(), config())
    with pytest.raises(InputRejectedError, match="1 of 96 validation images hold values that are NaN or infinite"):
        finetune(with_norms(), samples(), wrong, config())
    with pytest.raises(InputRejectedError, match="step 3: the images hold values that are NaN"):
        find_rate(with_norms(), LoaderSet(wrong, None), config(), "cpu")


class Forgiving(nn.Module):
    """Takes what is not a number for nought."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.body(images.nan_to_num(0.0, 0.0, 0.0))
        return result


def test_images_that_a_network_bears_are_not_blamed_for_the_learning_rate() -> None:
    images = IMAGES.clone()
    images[2, 1, 0, 0] = float("nan")
    given = [(images, LABELS), *samples()[1:]]
    assert finetune(Forgiving(), given, None, config(epochs=1)).epochs[-1].step == len(given)
    with pytest.raises(TrainingDivergedError, match="with a learning rate of "):
        finetune(Forgiving(), given, None, config(lr=1e30, warmup_steps=0))


class Scaling(nn.Module):
    """Takes images as they are stored."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.body(images.float() / 255)
        return result


def test_a_network_that_takes_bytes_is_trained_on_them_but_bytes_are_not_mixed() -> None:
    stored = [((images * 40 + 100).clamp(0, 255).byte(), labels) for images, labels in samples()]
    assert finetune(Scaling(), stored, stored, config(epochs=1)).epochs[-1].step == len(stored)
    with pytest.raises(InputRejectedError, match="images of uint8 cannot be mixed"):
        finetune(Scaling(), stored, stored, config(epochs=1, mixup=0.3))


class Picky(nn.Module):
    """Raises in training mode alone."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.body = network()
        self.error = error or AssertionError()

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            raise self.error
        result: Tensor = self.body(images)
        return result


def test_a_network_that_raises_in_training_alone_is_an_error_of_ours_too() -> None:
    with pytest.raises(InputRejectedError, match=r"the Picky does not run on float32 images.*: AssertionError"):
        finetune(Picky(), samples(), None, config())


@pytest.mark.parametrize(
    "error",
    [
        torch.distributed.DistBackendError("NCCL error in: NCCLUtils.cpp"),
        torch.distributed.DistNetworkError("the connection was closed"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_device_or_a_rank_is_the_reason_of_is_not_blamed_on_the_images(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        finetune(Picky(error), samples(), None, config())
    assert raised.value is error


def test_what_ranks_raise_about_their_model_is_not_blamed_on_the_images() -> None:
    error = RuntimeError("Expected to have finished reduction in the prior iteration before starting a new one.")
    with pytest.raises(RuntimeError) as raised:
        logits_on(network(), IMAGES, Picky(error))
    assert raised.value is error
