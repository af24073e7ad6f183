"""A small convolutional network whose layers have static or mixed kernels."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv import KernelAttentionConv2d, ODConv2d

# What stands where the network convolves; "static_wide" is static with as many parameters as "dyconv".
LAYERS = ("static", "static_wide", "dyconv", "condconv", "odconv")


class DigitsModel(nn.Module):
    """Three 3×3 convolutions with batch normalisation, the mean over the image, and a linear layer.

    The first convolution is static in all networks, as in the papers: there is little to tell images by before it.

    Args:
        conv: builds a convolution, with the arguments of ``nn.Conv2d``.
        channels: of the first convolution; the others have twice as many.
        classes: number of classes.
    """

    def __init__(self, conv: Callable[..., nn.Module], channels: int, classes: int = 10) -> None:
        super().__init__()
        wide = 2 * channels
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(1, channels, 3, padding=1, bias=False),
                conv(channels, wide, 3, stride=2, padding=1, bias=False),
                conv(wide, wide, 3, padding=1, bias=False),
            ]
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in (channels, wide, wide))
        self.classifier = nn.Linear(wide, classes)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Logits (B, classes) of images (B, 1, 8, 8), and with labels (B,) the loss."""
        hidden = images
        for conv, norm in zip(self.convs, self.norms):
            hidden = F.relu(norm(conv(hidden)))
        logits = self.classifier(hidden.mean((2, 3)))
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def mixtures(self, images: Tensor) -> list[Tensor]:
        """The weights of the kernels (B, N) in each layer that mixes some."""
        found, hidden = [], images
        for conv, norm in zip(self.convs, self.norms):
            if hasattr(conv, "mixture"):
                found.append(conv.mixture(hidden).flatten(1))
            hidden = F.relu(norm(conv(hidden)))
        return found


def build_model(layer: str, channels: int, num_kernels: int) -> DigitsModel:
    """The network with one of ``LAYERS``.

    Raises:
        ValueError: a name that is none of them.
    """
    mixed: dict[str, Any] = {"num_kernels": num_kernels}
    convs: dict[str, Callable[..., nn.Module]] = {
        "static": nn.Conv2d,
        "dyconv": partial(KernelAttentionConv2d, **mixed),
        "condconv": partial(KernelAttentionConv2d, routing="sigmoid", reduction=None, **mixed),
        "odconv": partial(ODConv2d, **mixed),
    }
    if layer == "static_wide":
        wanted = count_parameters(build_model("dyconv", channels, num_kernels))
        candidates = (DigitsModel(nn.Conv2d, width) for width in range(channels, channels * (num_kernels + 1)))
        return min(candidates, key=lambda model: abs(count_parameters(model) - wanted))
    if layer not in convs:
        raise ValueError(f"layer must be one of {', '.join(LAYERS)}, got {layer!r}")
    return DigitsModel(convs[layer], channels)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
