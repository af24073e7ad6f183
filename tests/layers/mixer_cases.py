"""Every mixer with every option of its own, one at a time: what tests of all options run over."""

from typing import Any

from torch import nn

from seqdyconv.layers import MIXERS, mixer_options

# What the caller of a mixer decides, and what a test of one option says by itself.
NO_OPTIONS = ("kernel_size", "causal", "lookahead")
# For each option a value that is nobody's default, for widths of 12 and 3 heads.
OTHER_VALUES: dict[str, Any] = {
    "attention_dropout": 0.25,
    "clamp": False,
    "conv": "lightweight_conv",
    "conv_dim": 6,
    "dilation": 2,
    "dynamic_kernel": False,
    "feature_kernel_size": 5,
    "generator_bias": True,
    "generator_reduction": 4,
    "glu": False,
    "head_ratio": 1,
    "input_dropout": 0.25,
    "modulation": True,
    "offset_dropout": 0.25,
    "rank": 2,
    "recompute": True,
    "renormalize": True,
    "residual": False,
    "short_conv": "dynamic",
    "short_conv_size": 3,
    "silu": True,
    "static_kernel": True,
    "weight_dropout": 0.25,
    "weight_softmax": False,
}
# Where an option or its value is another one with a mixer, or needs another option.
OF_A_MIXER: dict[tuple[str, str], dict[str, Any]] = {
    ("self_attention", "short_conv_size"): {"short_conv": "static", "short_conv_size": 3},
    ("short_conv", "dynamic_kernel"): {"dynamic_kernel": False, "static_kernel": True},
    ("gated_short_conv", "dynamic_kernel"): {"dynamic_kernel": True},
    ("gated_short_conv", "rank"): {"dynamic_kernel": True, "rank": 2},
}


def option_names(mixer: str) -> list[str]:
    return [name for name in mixer_options(mixer) if name not in NO_OPTIONS]


def option_cases() -> dict[str, tuple[str, dict[str, Any]]]:
    """Of all mixers their defaults, and each option at another value, by a readable name."""
    cases: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in MIXERS}
    for mixer in MIXERS:
        for option in option_names(mixer):
            options = OF_A_MIXER.get((mixer, option), {option: OTHER_VALUES[option]})
            cases[f"{mixer}, {option}={options[option]}"] = (mixer, options)
    return cases


def described(module: nn.Module) -> dict[str, Any]:
    """All that tells one module from another but the values of its parameters: classes, attributes, shapes."""
    plain = (bool, int, float, str, tuple, type(None))
    found: dict[str, Any] = {}
    for name, part in module.named_modules():
        own = {key: value for key, value in vars(part).items() if isinstance(value, plain)}
        found[name] = (type(part).__name__, {key: value for key, value in own.items() if not key.startswith("_is_hf")})
    return found | {name: parameter.shape for name, parameter in module.named_parameters()}
