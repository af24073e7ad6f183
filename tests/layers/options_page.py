"""The options of all mixers as a page: ``python -m tests.layers.options_page`` writes docs/options.md."""

from pathlib import Path

from seqdyconv.layers import MIXERS, mixer_options
from tests.layers.mixer_cases import option_names

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
HEAD = """# Options of the mixers

Each is declared once, in the layer; this page is made from the layers' signatures and docstrings, and a test fails
where it says something else. In Python `seqdyconv.layers.mixer_options(name)` lists them.

- `build_mixer("dynamic_conv", 512, 8, kernel_size=31, dilation=2)` takes them as keywords, and so does
  `swap_self_attention`.
- Models and recipes take them in `encoder_mixer_options` and `decoder_mixer_options`: a mapping for all layers, of
  which each mixer gets those that it has, or a list with a mapping, or nothing (`null`), for each layer:

```yaml
encoder_layer_types: [dynamic_conv, dynamic_conv, self_attention]
encoder_kernel_sizes: [3, 7, 1]
encoder_mixer_options: [{dilation: 2, renormalize: true}, null, {attention_dropout: 0.1}]
```

Width, heads, kernel sizes, direction and look-ahead are no options there: the model has fields for them. A layer may
have kernels of several sizes, `encoder_kernel_sizes: [[3, 7], 7, 1]`: see [layers.md](layers.md).
"""


def table(mixer: str) -> str:
    options = mixer_options(mixer)
    rows = [
        f"| `{name}` | `{options[name].default}` | {options[name].help.replace('|', chr(92) + '|')} |"
        for name in option_names(mixer)
    ]
    return "\n".join([f"\n## `{mixer}`\n", "| option | default | |", "|---|---|---|", *rows, ""])


def page() -> str:
    return HEAD + "".join(map(table, MIXERS))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
