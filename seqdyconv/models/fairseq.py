"""Translation models of fairseq, where the paper's code and trained models live, as ours.

fairseq's ``lightconv`` checkpoints hold the weights under names that changed over the years, the training arguments,
and much that is not needed. They are read without running any code of theirs: an allow-list of inert types, all other
classes are refused.
"""

import ast
import functools
import os
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from seqdyconv.files import shorten
from seqdyconv.models.configuration import SeqDyConvConfig
from seqdyconv.models.modeling import SeqDyConvForConditionalGeneration
from seqdyconv.models.tokenization import SPECIAL_TOKENS, SeqDyConvTokenizer

FIRST_POSITION = 2  # fairseq counts positions from the padding token's id, 1, plus one
CONV_TYPES = {"dynamic": "dynamic_conv", "lightweight": "lightweight_conv"}


class FairseqTranslation(NamedTuple):
    """A converted checkpoint: ``model, tokenizer = load_fairseq_checkpoint(...)``."""

    model: SeqDyConvForConditionalGeneration
    tokenizer: SeqDyConvTokenizer | None  # None where no dictionaries were given


def load_fairseq_checkpoint(
    path: str | os.PathLike[str],
    *,
    source_dictionary: str | os.PathLike[str] | None = None,
    target_dictionary: str | os.PathLike[str] | None = None,
    args: Namespace | Mapping[str, Any] | None = None,
) -> FairseqTranslation:
    """Turn a fairseq ``lightconv`` translation checkpoint (Wu et al. 2019, arXiv 1901.10430) into our model.

    Reads the key names of all releases, v0.6.2 of 2019 to the last. The model has the checkpoint's dtype and is in
    eval mode; from there on it is a Hugging Face model like any other. Where encoder and decoder learned tables of
    positions of different lengths, the shorter one is filled up with zeros.

    fairseq gives two answers while a target is shorter than a kernel of a dynamic decoder: ours is that of its
    token-by-token decoding, which is what it translates with.

    Args:
        path: the ``.pt`` file.
        source_dictionary: fairseq's ``dict.<language>.txt`` of the source; with it a tokenizer comes too.
        target_dictionary: that of the target; None: one joined dictionary.
        args: the training arguments, for checkpoints that do not hold them in a form that can be read.

    Returns:
        ``model`` and ``tokenizer``; ``tokenizer`` is None without dictionaries.

    Raises:
        ValueError: what was got and why it cannot be converted: no checkpoint, a damaged one, one that needs a class
            that is not on the allow-list, another architecture, an option that our model does not have, weights that
            do not fit the arguments, or dictionaries that do not fit the weights.
        FileNotFoundError: no such file.

    Example::

        model, tokenizer = load_fairseq_checkpoint(
            "model.pt", source_dictionary="dict.de.txt", target_dictionary="dict.en.txt"
        )
        batch = tokenizer(["das ist neu@@ er ."], return_tensors="pt")
        print(tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True))
        model.save_pretrained("converted")
        tokenizer.save_pretrained("converted")
    """
    path = Path(path)
    if target_dictionary is not None and source_dictionary is None:
        raise ValueError("target_dictionary needs source_dictionary; give a joined dictionary as source_dictionary")
    for file in (path, source_dictionary, target_dictionary):
        if file is not None and not Path(file).is_file():
            raise FileNotFoundError(f"no such file: {file}")
    tokenizer = None if source_dictionary is None else fairseq_tokenizer(source_dictionary, target_dictionary)
    checkpoint = _read(path)
    try:
        state = _state_dict(checkpoint)
        options = _arguments(checkpoint) if args is None else _plain(args)
        model = _build(options, state)
        if tokenizer is not None:
            _check_sizes(tokenizer, model.config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return FairseqTranslation(model, tokenizer)


def fairseq_tokenizer(
    source_dictionary: str | os.PathLike[str], target_dictionary: str | os.PathLike[str] | None = None
) -> SeqDyConvTokenizer:
    """The tokenizer of fairseq's dictionaries: one file of a joined dictionary, or two.

    Text must be tokenised and split into subwords as for fairseq; see :class:`SeqDyConvTokenizer`.

    Raises:
        ValueError: a line that is not ``token count``, with its number, or bytes that are not UTF-8.
    """
    source = _read_dictionary(Path(source_dictionary))
    return SeqDyConvTokenizer(source, None if target_dictionary is None else _read_dictionary(Path(target_dictionary)))


def _read_dictionary(path: Path) -> list[str]:
    """The tokens by id. The file lists them without the four special ones, which come first."""
    tokens = dict.fromkeys(SPECIAL_TOKENS)
    listed = list(SPECIAL_TOKENS)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() and number == len(lines):
            break
        match = re.fullmatch(r"(.+) -?\d+( #fairseq:overwrite)?", line.rstrip())
        if match is None:
            raise ValueError(f"{path} line {number} must be 'token count', got {line[:80]!r}")
        token = match[1]
        if token in tokens and match[2] is None:
            raise ValueError(
                f"{path} line {number} repeats {token!r}; where that is meant, end the line with #fairseq:overwrite"
            )
        tokens[token] = None
        listed.append(token)
    return listed


def _check_sizes(tokenizer: SeqDyConvTokenizer, config: SeqDyConvConfig) -> None:
    sides = {
        "source": (tokenizer.vocab_size, config.encoder_vocab_size or config.vocab_size),
        "target": (tokenizer.target_vocab_size, config.vocab_size),
    }
    for side, (dictionary, rows) in sides.items():
        if dictionary != rows:
            raise ValueError(
                f"the {side} dictionary has {dictionary} tokens, the four special ones included, and the checkpoint "
                f"{rows} {side} embeddings"
            )


# Reading


class _Inert:
    """Stands in for objects of fairseq and its libraries: keeps what was stored and does nothing."""

    def __new__(cls, *args: Any) -> "_Inert":
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


# What training leaves in checkpoints beside weights and arguments; none is needed, none of these classes is imported.
_INERT_PACKAGES = ("fairseq.", "omegaconf.")
_INERT_NAMES = [
    *(f"fairseq.meters.{name}" for name in ("AverageMeter", "TimeMeter", "StopwatchMeter")),
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "object", "str", "tuple")),
    "collections.defaultdict",
    "typing.Any",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
]


def _read(path: Path) -> Any:
    """What ``torch.save`` wrote, of tensors, plain values and inert types alone."""
    with path.open("rb") as file:
        try:
            others = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        except Exception:  # the format before 2020 does not tell, a damaged file fails below
            others = []
        file.seek(0)
        inert = [*_INERT_NAMES, *(name for name in others if name.startswith(_INERT_PACKAGES))]
        try:
            with torch.serialization.safe_globals([Namespace, *((_Inert, name) for name in inert)]):
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes raise anything
            raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> ValueError:
    refused = re.search(r"GLOBAL (\S+) (?:was not|whose)", str(error))
    if refused is not None:
        return ValueError(
            f"{path} holds {refused[1]}, which is not on the list of what may be read without running code; if you "
            "trust it, save its weights alone as {'model': ...} and pass the training arguments as args={...}"
        )
    reason = (str(error).splitlines() or [""])[0]
    if "weights_only" in reason:  # torch's advice to run the code that is in the file
        reason = "a part of it is not of the expected kind"
    return ValueError(f"{path} is no checkpoint or a damaged one: {type(error).__name__} while reading, {reason[:120]}")


def _state_dict(checkpoint: Any) -> dict[str, Tensor]:
    state = checkpoint.get("model") if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        got = (
            f"the keys {_some(map(str, checkpoint))}" if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        )
        raise ValueError(f"a fairseq checkpoint is a dictionary with a state dict under 'model', got {got}")
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ValueError(
                f"a state dict must hold floating-point tensors by name, got {key!r}: {type(tensor).__name__}"
            )
        if tensor.is_meta:
            raise ValueError(f"{key} is kept without its numbers")
    return dict(state)


def _arguments(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The training arguments: ``args`` of old releases, ``cfg`` of new ones."""
    options = _plain(checkpoint.get("args")) or _plain(_plain(checkpoint.get("cfg")).get("model"))
    if not options:
        raise ValueError("neither 'args' nor 'cfg' holds the training arguments: pass them as args={...}")
    return options


def _plain(value: Any) -> dict[str, Any]:
    """The entries of a namespace, a dictionary, or an omegaconf container that was read as inert objects."""
    value = _unwrap(value)
    if isinstance(value, Namespace):
        value = vars(value)
    return {str(_unwrap(key)): _unwrap(item) for key, item in value.items()} if isinstance(value, Mapping) else {}


def _unwrap(value: Any) -> Any:
    if isinstance(value, _Inert):  # omegaconf keeps the children in _content, the value of a leaf in _val
        kept = vars(value)
        inner = kept.get("_content", kept.get("_val"))
        return [_unwrap(item) for item in inner] if isinstance(inner, list) else _unwrap(inner)
    return value


# Arguments → configuration


class _Options:
    """Typed access to fairseq's arguments, which older releases keep as text in part."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def get(self, name: str, default: Any) -> Any:
        return self.values.get(name, default)

    def number(self, name: str, default: float) -> float:
        value = self.get(name, default)
        try:
            return float(default if value is None else value)
        except (TypeError, ValueError):
            raise ValueError(f"the argument {name} must be a number, got {value!r}") from None

    def size(self, name: str, default: int, most: int = 2**31 - 1) -> int:
        value = self.number(name, default)
        if not value.is_integer() or not 1 <= value <= most:
            got = shorten(repr(self.get(name, default)), 80)
            raise ValueError(f"the argument {name} must be a whole number from 1 to {most}, got {got}")
        return int(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name, default)
        known = {"true": True, "1": True, "false": False, "0": False, "none": False}
        if str(value).lower() not in known:
            raise ValueError(f"the argument {name} must be true or false, got {value!r}")
        return known[str(value).lower()]

    def sizes(self, name: str, default: list[int]) -> list[int]:
        value = self.get(name, default)
        try:
            parsed = ast.literal_eval(value) if isinstance(value, str) else value
            return [int(size) for size in (parsed if isinstance(parsed, Iterable) else [parsed])]
        except (TypeError, ValueError, SyntaxError):
            raise ValueError(
                f"the argument {name} must be a list of kernel sizes, got {shorten(repr(value), 80)}"
            ) from None


def _check_architecture(options: _Options) -> None:
    architecture = options.get("arch", None) or options.get("_name", None) or "lightconv"
    if not str(architecture).startswith("lightconv") or str(architecture).startswith("lightconv_lm"):
        raise ValueError(f"the architecture must be a lightconv translation model, got {architecture!r}")
    cutoff = options.get("adaptive_softmax_cutoff", None)
    if cutoff not in (None, "", "None"):
        raise ValueError(f"adaptive softmax is not supported, got adaptive_softmax_cutoff={cutoff!r}")


def _config(options: _Options, state: Mapping[str, Tensor]) -> SeqDyConvConfig:
    """The configuration that the arguments describe, their defaults being fairseq's."""
    width = options.size("encoder_embed_dim", 512)
    if options.size("decoder_embed_dim", width) != width:
        raise ValueError(
            "encoder_embed_dim and decoder_embed_dim must be equal, got "
            f"{width} and {options.size('decoder_embed_dim', width)}"
        )
    share_all = options.flag("share_all_embeddings", False)
    sizes = {side: _tensor(state, f"{side}.embedding.tokens.weight").shape[0] for side in ("encoder", "decoder")}
    if share_all and sizes["encoder"] != sizes["decoder"]:
        raise ValueError(
            f"shared embeddings must have one size, got {sizes['encoder']} source and {sizes['decoder']} target tokens"
        )
    ffn_dim = options.size("encoder_ffn_embed_dim", 2048)
    attention_dropout = options.number("attention_dropout", 0.0)
    values: dict[str, Any] = dict(
        **_stack("encoder", options, width, ffn_dim, 7, [3, 7, 15, 31, 31, 31, 31]),
        **_stack("decoder", options, width, ffn_dim, 6, [3, 7, 15, 31, 31, 31]),
        vocab_size=sizes["decoder"],
        encoder_vocab_size=None if sizes["encoder"] == sizes["decoder"] else sizes["encoder"],
        hidden_size=width,
        max_position_embeddings=_position_rows(options, state),
        position_offset=FIRST_POSITION,
        share_encoder_decoder_embeddings=share_all,
        tie_word_embeddings=share_all or options.flag("share_decoder_input_output_embed", False),
        dropout=options.number("dropout", 0.1),
        attention_dropout=attention_dropout,
        activation_dropout=options.number("relu_dropout", 0.0),
        input_dropout=options.number("input_dropout", 0.1),
        weight_dropout=options.number("weight_dropout", attention_dropout),
        weight_softmax=options.flag("weight_softmax", True),
    )
    try:
        return SeqDyConvConfig(**values)
    except StrictDataclassError as error:  # not a ValueError itself
        raise ValueError(str(error.__cause__ or error)) from None


def _stack(
    side: str, options: _Options, width: int, ffn_dim: int, layers: int, kernel_sizes: list[int]
) -> dict[str, Any]:
    """The configuration of the encoder or the decoder."""
    conv_type = options.get(f"{side}_conv_type", "dynamic")
    if conv_type not in CONV_TYPES:
        raise ValueError(f"the argument {side}_conv_type must be of {', '.join(CONV_TYPES)}, got {conv_type!r}")
    layers = options.size(f"{side}_layers", layers, most=10_000)
    kernel_sizes = options.sizes(f"{side}_kernel_size_list", kernel_sizes)
    kernel_sizes = kernel_sizes * layers if len(kernel_sizes) == 1 else kernel_sizes
    if len(kernel_sizes) != layers:
        raise ValueError(f"{side}_kernel_size_list must have {layers} sizes, one for each layer, got {kernel_sizes}")
    position_type = "learned" if options.flag(f"{side}_learned_pos", False) else "sinusoidal"
    stack = {
        "layer_types": [CONV_TYPES[conv_type]] * layers,
        "kernel_sizes": kernel_sizes,
        "attention_heads": options.size(f"{side}_attention_heads", 8),
        "ffn_dim": options.size(f"{side}_ffn_embed_dim", ffn_dim),
        "conv_dim": options.size(f"{side}_conv_dim", width),
        "glu": options.flag(f"{side}_glu", True),
        "normalize_before": options.flag(f"{side}_normalize_before", False),
        "position_type": "none" if options.flag("no_token_positional_embeddings", False) else position_type,
    }
    return {f"{side}_{name}": value for name, value in stack.items()}


def _position_rows(options: _Options, state: Mapping[str, Tensor]) -> int:
    """The rows of the longer table of learned positions, its first, unused ones included."""
    tables = [state.get(f"{side}.embedding.positions.weight") for side in ("encoder", "decoder")]
    limits = [options.size(f"max_{side}_positions", 1024) for side in ("source", "target")]
    return max([len(table) for table in tables if table is not None] or limits)


# Weights

# Written once in __init__ or never used by the models; the two conv_bias are drawn at random and never added.
_IGNORED = re.compile(
    r"(encoder|decoder)\.(version|embed_positions\.(_float_tensor|weights)|layers\.\d+\.conv\.conv_bias)"
)
_MODULES = {
    "embed_tokens": "embedding.tokens",
    "embed_positions": "embedding.positions",
    "layer_norm": "norm",
    "output_projection": "output",
    "project_out_dim": "output_bottleneck",
}
_LAYER_MODULES = {
    "linear1": "mixer.in_proj",
    "conv": "mixer.conv",
    "conv.weight_linear": "mixer.conv.generator",
    "linear2": "mixer.out_proj",
    "fc1": "ffn.in_proj",
    "fc2": "ffn.out_proj",
    "encoder_attn.q_proj": "cross_attention.query_proj",
    "encoder_attn.k_proj": "cross_attention.key_proj",
    "encoder_attn.v_proj": "cross_attention.value_proj",
    "encoder_attn.out_proj": "cross_attention.out_proj",
}
_LAYER_NORMS = {
    "encoder": {
        "layer_norm1": "mixer_residual.norm",
        "layer_norm2": "ffn_residual.norm",
        "layer_norms.0": "mixer_residual.norm",  # until 2022
        "layer_norms.1": "ffn_residual.norm",
    },
    "decoder": {
        "conv_layer_norm": "mixer_residual.norm",
        "encoder_attn_layer_norm": "cross_residual.norm",
        "final_layer_norm": "ffn_residual.norm",
    },
}


def _build(values: Mapping[str, Any], fairseq_state: Mapping[str, Tensor]) -> SeqDyConvForConditionalGeneration:
    options = _Options(values)
    _check_architecture(options)
    state, origin = _rename(fairseq_state)
    config = _config(options, state)
    _fill_positions(state, config)
    _join_memory(state, config)
    _output(state, config)
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        model = SeqDyConvForConditionalGeneration(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if missing := sorted(expected.keys() - state.keys()):
        raise ValueError(f"the model that the arguments describe needs weights that are missing: {_some(missing)}")
    if unexpected := sorted(state.keys() - expected.keys()):
        raise ValueError(
            "the model that the arguments describe has no place for the weights "
            f"{_some(origin.get(name, name) for name in unexpected)}"
        )
    for name, shape in expected.items():
        if state[name].shape != shape:
            raise ValueError(
                f"the arguments say {tuple(shape)} for {name}, got {tuple(state[name].shape)} in the checkpoint"
            )
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in state.values()))
    # Copies, so that no weight keeps the memory of others alive or shares it.
    state = {name: tensor.to(dtype).clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model.eval()


def _rename(fairseq_state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Our names, with those of fairseq that they come from. All keys are renamed, but for the ignored ones."""
    if not any(re.match(r"encoder\.layers\.\d+\.conv\.", key) for key in fairseq_state):
        raise ValueError(
            "the weights are not those of a lightconv translation model (no encoder.layers.*.conv.*), got "
            f"{_some(fairseq_state)}"
        )
    state, origin, unknown = {}, {}, []
    for key, tensor in fairseq_state.items():
        if _IGNORED.fullmatch(key):
            continue
        for name, part in _renamed(key, tensor):
            if name is None or name in state:
                unknown.append(key)
            else:
                state[name], origin[name] = part, key
    if unknown:
        raise ValueError(f"the weights {_some(unknown)} are of no lightconv model or there twice")
    return state, origin


def _renamed(key: str, tensor: Tensor) -> list[tuple[str | None, Tensor]]:
    """Our name or names of one weight, None where it is unknown."""
    if key == "decoder.embed_out":  # until 2020 a parameter, then a layer
        return [("decoder.output.weight", tensor)]
    if match := re.fullmatch(r"(decoder\.layers\.\d+)\.encoder_attn\.in_proj_(weight|bias)", key):
        attention, kind = f"{match[1]}.cross_attention", match[2]
        width = len(tensor) // 3  # query, key and value in one, until 2019
        return [(f"{attention}.query_proj.{kind}", tensor[:width]), (f"{attention}.memory_proj.{kind}", tensor[width:])]
    match = re.fullmatch(r"(encoder|decoder)\.(layers\.\d+\.)?(.+)\.(weight|bias)", key)
    if match is None:
        return [(None, tensor)]
    side, layer, module, kind = match.groups()
    name = (_LAYER_MODULES | _LAYER_NORMS[side]).get(module) if layer else _MODULES.get(module)
    if name == "mixer.conv" and tensor.dim() == 3:
        tensor = tensor.squeeze(1)  # (H, 1, K); (H, K) where it was trained with fairseq's CUDA kernels
    return [(name and f"{side}.{layer or ''}{name}.{kind}", tensor)]


def _fill_positions(state: dict[str, Tensor], config: SeqDyConvConfig) -> None:
    for side in ("encoder", "decoder"):
        name = f"{side}.embedding.positions.weight"
        if name in state and state[name].dim() == 2:
            missing = config.max_position_embeddings - len(state[name])
            state[name] = torch.nn.functional.pad(state[name], (0, 0, 0, missing))


def _join_memory(state: dict[str, Tensor], config: SeqDyConvConfig) -> None:
    """Our cross-attention has keys and values in one projection."""
    for layer in range(len(config.decoder_layer_types)):
        attention = f"decoder.layers.{layer}.cross_attention"
        for kind in ("weight", "bias"):
            parts = [f"{attention}.{part}_proj.{kind}" for part in ("key", "value")]
            if all(part in state for part in parts) and len({state[part].shape for part in parts}) == 1:
                state[f"{attention}.memory_proj.{kind}"] = torch.cat([state.pop(part) for part in parts])


def _output(state: dict[str, Tensor], config: SeqDyConvConfig) -> None:
    """``lm_head``, from what the checkpoint has: nothing where it is shared, or with a bottleneck before it."""
    embedding = _tensor(state, "decoder.embedding.tokens.weight")
    if config.share_encoder_decoder_embeddings and not _equal(state["encoder.embedding.tokens.weight"], embedding):
        raise ValueError("the arguments say share_all_embeddings, but the encoder's embeddings are not the decoder's")
    output = state.pop("decoder.output.weight", None)
    if config.tie_word_embeddings:
        if output is not None and not _equal(output, embedding):
            raise ValueError("the arguments say that the output shares the embeddings, but its weights are others")
        state["lm_head.weight"] = embedding
    elif output is not None:
        bottleneck = state.pop("decoder.output_bottleneck.weight", None)
        if bottleneck is not None:
            if bottleneck.dim() != 2 or output.dim() != 2 or output.shape[1] != bottleneck.shape[0]:
                raise ValueError(
                    "decoder.project_out_dim and the output matrix do not fit together, got "
                    f"{tuple(bottleneck.shape)} and {tuple(output.shape)}"
                )
            output = (output.double() @ bottleneck.double()).to(output.dtype)
        state["lm_head.weight"] = output


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second)


def _tensor(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"the model that the arguments describe needs weights that are missing: {name}")
    return state[name]


def _some(names: Iterable[str]) -> str:
    """The first few names."""
    listed = list(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
