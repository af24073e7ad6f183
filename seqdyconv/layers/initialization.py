"""How layers start."""

from torch import nn


def reset_linear(*layers: nn.Linear) -> None:
    """Weights by Xavier, uniform (Glorot and Bengio 2010), biases zero: every projection and generator starts so."""
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
