"""Swapped models through the Auto classes, where a second configuration beside their own says that they are some.

``config.json`` of a swapped model is that of the original class, which would load it without its mixers, and is refused
for that reason. What goes by Auto classes alone, such as sentence-transformers, reads ``swapped_config.json`` instead,
whose type is registered here.
"""

from typing import Any

from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from seqdyconv.swap.loading import load_swapped

SWAPPED_CONFIG = "swapped_config.json"
"""The file's name."""


# What AutoModel adds to the options that it is given: load_swapped reads the configuration itself, and runs no code.
_OF_AUTO = ("config", "trust_remote_code", "adapter_kwargs", "_from_auto", "_commit_hash")
# What stands in a configuration that nobody asked for.
_OF_ANY = ("model_type", "transformers_version", "architectures", "dtype")


class SwappedConfig(PreTrainedConfig):
    """Says that the model in a folder is to be loaded by :func:`load_swapped`."""

    model_type = "seqdyconv_swapped"


class SwappedModel(PreTrainedModel):
    """What ``AutoModel`` asks for a model with such a configuration."""

    config_class = SwappedConfig

    @classmethod
    def from_pretrained(cls, name_or_path: Any, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        """The swapped model itself, an object of the class that was saved: see :func:`load_swapped`."""
        given = {name: value for name, value in options.items() if name not in _OF_AUTO}
        config = options.get("config", cls.config_class())  # with the options that configurations of all models have
        given |= {name: value for name, value in config.to_diff_dict().items() if name not in _OF_ANY}
        if config._attn_implementation is not None:
            given["attn_implementation"] = config._attn_implementation
        return load_swapped(name_or_path, **given)


AutoConfig.register(SwappedConfig.model_type, SwappedConfig)
AutoModel.register(SwappedConfig, SwappedModel)
