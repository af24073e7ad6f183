"""The temperature of mixed kernels over a training."""

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from seqdyconv import KernelAttentionConv2d, ODConv2d
from seqdyconv.training.annealing import TemperatureAnnealing


class Classifier(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layers(images).mean((2, 3))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Watch(TrainerCallback):
    """What the temperatures are when a step has been made."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append([layer.temperature for layer in model.layers if hasattr(layer, "temperature")])


def train(folder, model, *callbacks, steps=6):
    data = [{"images": torch.randn(1, 4, 4), "labels": torch.tensor(0)} for _ in range(8)]
    args = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    Trainer(model, args, train_dataset=data, callbacks=list(callbacks)).train()


def test_all_layers_are_annealed_step_by_step(tmp_path):
    model = Classifier(KernelAttentionConv2d(1, 4, 3), nn.ReLU(), ODConv2d(4, 2, 1))
    watch = Watch()
    train(tmp_path, model, TemperatureAnnealing(start=10, end=1, share=0.5), watch)
    assert watch.seen == [[10.0] * 2, [7.0] * 2, [4.0] * 2, *[[1.0] * 2] * 3]


def test_the_end_is_reached_by_a_training_that_is_stopped_before(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = True

    model = Classifier(KernelAttentionConv2d(1, 4, 3))
    train(tmp_path, model, TemperatureAnnealing(share=1.0), Stop())
    assert model.layers[0].temperature == 1.0


def test_a_model_without_mixed_kernels_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs a model with attention over kernels"):
        train(tmp_path, Classifier(nn.Conv2d(1, 4, 3)), TemperatureAnnealing())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"start": 0}, "start must be above 0, got 0"),
        ({"end": -1}, "end must be above 0, got -1"),
        ({"share": 0}, r"share must be in \(0, 1\], got 0"),
        ({"share": 1.5}, r"share must be in \(0, 1\], got 1.5"),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        TemperatureAnnealing(**options)
