"""What the graphs of recognisers compute: raw samples to logits, of whole utterances and step by step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

from seqdyconv.deploy.folder import Written
from seqdyconv.deploy.graphs import ExportError, write_graph
from seqdyconv.deploy.log_mel import LogMel
from seqdyconv.layers.states import map_state, tensors_of
from seqdyconv.layers.subsampling import SubsamplingState
from seqdyconv.models import SeqDyConvForCTC
from seqdyconv.models.streaming import BlockState
from seqdyconv.runtime.words import WORD_BOUNDARY
from seqdyconv.speech.alignment import token_strings
from seqdyconv.speech.features import SeqDyConvFeatureExtractor
from seqdyconv.speech.recogniser import Recogniser

_NEVER = torch.iinfo(torch.long).max
_TRACED_SECONDS = 30.0
"""So many that all convolutions run over several blocks: a number of blocks of 1 would stay so in a graph."""


class CTCProgram(nn.Module):
    """Samples of whole utterances to the logits of a CTC model, of this package or another, swapped or not.

    Args:
        recogniser: with a CTC model.

    Raises:
        ExportError: the features of its model are of a kind that no graph computes.
    """

    def __init__(self, recogniser: Recogniser) -> None:
        super().__init__()
        self.front = front_of(recogniser.feature_extractor)
        self.model = recogniser.model
        self.recogniser = recogniser

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of a batch.

        Args:
            samples: (B, N) between -1 and 1; N of at least one window.
            lengths: (B,) of each row, from 1 to N; what is behind is not read.

        Returns:
            Logits (B, T, V), and (B,) how many of the T are real.
        """
        name = self.model.main_input_name
        values, mask = self.front(samples, lengths)
        inputs = {name: values} if mask is None else {name: values, "attention_mask": mask}
        logits = self.model(**inputs).logits
        return logits, self.recogniser.output_lengths(inputs, logits.shape[1])


class Waveform(nn.Module):
    """The samples themselves, as wav2vec 2.0 and its relatives take them."""

    def __init__(self, extractor: Wav2Vec2FeatureExtractor) -> None:
        super().__init__()
        self.normalizes = extractor.do_normalize
        self.has_mask = extractor.return_attention_mask

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, N) samples, with mean 0 and variance 1 in each row where the model wants that, and maybe a mask.

        Without a mask transformers takes the padding for samples there; here a row is normalised as if it were alone.
        """
        mask = torch.arange(samples.shape[1], device=samples.device) < lengths[:, None]
        values = torch.where(mask, samples, 0.0)
        if self.normalizes:
            count = lengths[:, None].to(values.dtype)
            centred = torch.where(mask, values - values.sum(1, keepdim=True) / count, 0.0)
            values = centred / (centred.square().sum(1, keepdim=True) / count + 1e-7).sqrt()
        return values, mask.long() if self.has_mask else None


class StackedLogMel(nn.Module):
    """Log-mel features, normalised by utterance, two frames in one, as wav2vec 2.0 BERT takes them."""

    def __init__(self, extractor: SeamlessM4TFeatureExtractor) -> None:
        super().__init__()
        self.log_mel = LogMel(
            SeqDyConvFeatureExtractor(extractor.num_mel_bins, extractor.sampling_rate, normalize=None)
        )
        self.stride = extractor.stride

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, stride · F) features, and a mask (B, T)."""
        features, mask = self.log_mel(samples, lengths)
        kept = mask[..., None].to(features.dtype)
        count = kept.sum(1, keepdim=True)
        centred = (features - features.sum(1, keepdim=True) / count) * kept
        normalised = centred / (centred.square().sum(1, keepdim=True) / (count - 1) + 1e-7).sqrt()
        filled = (features.shape[1] + self.stride - 1) // self.stride * self.stride - features.shape[1]
        stacked = F.pad(normalised, (0, 0, 0, filled)).unflatten(1, (-1, self.stride)).flatten(2)
        return stacked, F.pad(mask, (0, filled)).unflatten(1, (-1, self.stride))[:, :, -1]


def front_of(extractor: Any) -> nn.Module:
    """The module that computes what a feature extractor does.

    Raises:
        ExportError: no module does.
    """
    if isinstance(extractor, SeqDyConvFeatureExtractor):
        return LogMel(extractor)
    if isinstance(extractor, SeamlessM4TFeatureExtractor):
        return StackedLogMel(extractor)
    if isinstance(extractor, Wav2Vec2FeatureExtractor):
        return Waveform(extractor)
    raise ExportError(f"features of {type(extractor).__name__} can't be computed inside a graph")


class StreamingCTCProgram(nn.Module):
    """The next samples of streams to the logits of the steps that they complete, with all states as tensors.

    A step is four frames. A chunk has the samples of a whole number of steps; before the first one of a stream stand
    ``padding`` zeros, so that a chunk ends where a frame of a step does. All states begin as zeros. The outputs come
    ``lookahead`` steps late, so a stream ends with as many steps of zeros, in one call with its last samples.

    Args:
        recogniser: whose CTC model has ``encoder_lookahead``, and whose features are not normalised by utterance.

    Raises:
        ExportError: it can't stream.
    """

    def __init__(self, recogniser: Recogniser) -> None:
        super().__init__()
        model: Any = recogniser.model
        reason = recogniser.why_not_streaming
        if reason is not None:
            raise ExportError(reason)
        self.front = LogMel(recogniser.feature_extractor)
        self.model = model
        self.blank = model.config.pad_token_id
        self.step = 4 * self.front.shift
        self.padding = -self.front.window % self.step
        self.first_step = 1 - (self.front.window + self.padding) // self.step
        """The number of the step that the first chunk begins with; those before 0 are of zeros."""
        self.lookahead: int = model.encoder.lookahead

    @property
    def late(self) -> int:
        """The outputs of a stream that come before the one of its first step; as many steps of zeros end it."""
        return self.lookahead - self.first_step

    def initial_states(self, batch_size: int) -> dict[str, Tensor]:
        """The states before the first chunk, by name: zeros."""
        encoder = self.model.encoder
        states = {
            "position": torch.zeros(batch_size, dtype=torch.long),
            "past": torch.zeros(batch_size, self.front.window - self.front.shift),
        }
        for number, (read, state) in enumerate(zip(self._read(), encoder.subsampling.initial_state(batch_size)), 1):
            states |= {f"subsampling{number}_{name}": getattr(state, name) for name in read}
        for number, layer in enumerate(encoder.layers, 1):
            for name, state in zip(("mixer", "conv"), layer.initial_state(batch_size)):
                parts = tensors_of(state.mixer)
                states |= zip([f"layer{number}_{name}{index}" for index in range(1, len(parts) + 1)], parts)
                if late := getattr(layer, name).lookahead:
                    waiting = state.waiting.new_zeros(batch_size, late, self.model.config.hidden_size)
                    states[f"layer{number}_{name}_waiting"] = waiting
        return states

    def forward(self, samples: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Logits of the next steps.

        Args:
            samples: (B, n, step), the next ones of each stream.
            lengths: (B,) how many of them are real. Fewer than all: the stream ends with them.
            states: of :meth:`initial_states` or the last call.

        Returns:
            Logits (B, n, V), those of blanks where a step is not of the stream; and the next states.
        """
        encoder, given = self.model.encoder, iter(states)
        position, past = next(given), next(given)
        count = samples.shape[1]
        samples = samples.reshape(samples.shape[0], count * self.step)
        real = torch.arange(samples.shape[1], device=samples.device) < lengths[:, None]
        window = torch.cat([past, torch.where(real, samples, 0.0)], 1)
        frames = self.front.normalize_globally(self.front.log_mel(window))
        following = [position + count, window[:, window.shape[1] - past.shape[1] :]]

        first = position + self.first_step
        heard = position * self.step + lengths - self.padding
        end = torch.where(heard > 0, (self.front.num_frames(heard) + 3) // 4, 0)
        end = torch.where(lengths < samples.shape[1], end, _NEVER)

        before = torch.arange(frames.shape[1], device=samples.device) + 4 * first[:, None] < 3
        forms = zip(self._read(), encoder.subsampling.initial_state(samples.shape[0]))
        states_of_convs = [form._replace(**{name: next(given) for name in read}) for read, form in forms]
        hidden, subsampling = encoder.subsampling.stream_in_step(frames, SubsamplingState(*states_of_convs), before)
        following += [getattr(state, name) for read, state in zip(self._read(), subsampling) for name in read]

        run = BlocksInStep(first, end)
        for layer in encoder.layers:
            state = [_fill(form, block, given) for form, block in zip(layer.initial_state(1), _blocks(layer))]
            hidden, state = layer.stream(hidden, tuple(state), run)
            for one, block in zip(state, _blocks(layer)):
                following += [*tensors_of(one.mixer), *([one.waiting] if block.lookahead else [])]
        logits = self.model.ctc_head(hidden if encoder.norm is None else encoder.norm(hidden))
        blank = torch.full_like(logits[0, 0], -1e4)
        blank[self.blank] = 0
        return torch.where(run.outside(hidden)[..., None], blank, logits), *following

    def _read(self) -> list[list[str]]:
        """Of the states of each convolution of the subsampling those that it reads here."""
        subsampling = self.model.encoder.subsampling
        return [["inputs", *([] if conv.attention is None else ["total", "steps"])] for conv in _convs(subsampling)]


class BlocksInStep:
    """Runs the mixers of layers one after the other, each on as many steps as come in, late by what it looks ahead.

    Args:
        first: (B,) the number of the first of these steps; those before 0 are not of the stream.
        end: (B,) the number of the one behind its last step.
    """

    def __init__(self, first: Tensor, end: Tensor) -> None:
        self.first, self.end = first, end

    def outside(self, hidden: Tensor) -> Tensor:
        """(B, T) which steps are not of the stream."""
        steps = self.first[:, None] + torch.arange(hidden.shape[1], device=hidden.device)
        return (steps < 0) | (steps >= self.end[:, None])

    def __call__(
        self, mixer: Any, normalize: Callable[[Tensor], Tensor], hidden: Tensor, state: BlockState
    ) -> tuple[Tensor, Tensor, BlockState]:
        """As :func:`seqdyconv.models.streaming.stream_block`, which knows what is due; here sizes never change."""
        mixed, mixer_state = mixer.stream(normalize(hidden), state.mixer, self.outside(hidden))
        if not mixer.lookahead:
            return hidden, mixed, BlockState(state.waiting, mixer_state)
        self.first = self.first - mixer.lookahead
        steps = torch.cat([state.waiting, hidden], dim=1)
        return steps[:, : hidden.shape[1]], mixed, BlockState(steps[:, hidden.shape[1] :], mixer_state)


def _convs(subsampling: Any) -> tuple[Any, Any]:
    return subsampling.conv1, subsampling.conv2


def _blocks(layer: Any) -> list[Any]:
    """The mixers of a layer with a state, in the order of its states."""
    return [getattr(layer, name) for name in ("mixer", "conv") if hasattr(layer, name)]


def _fill(form: BlockState, block: Any, given: Iterator[Tensor]) -> BlockState:
    """A state of the form of another, made of the tensors that come next."""
    mixer = map_state(lambda _: next(given), form.mixer)
    return BlockState(next(given) if block.lookahead else form.waiting, mixer)


def write_recogniser(recogniser: Recogniser, folder: Path) -> Written:
    """Write the graphs of a recogniser: ``offline.onnx``, ``streaming.onnx`` where it streams, and ``tokens.txt``.

    Args:
        recogniser: with a CTC model, or with a model of this package with a decoder, of which the encoder with its CTC
            output is written.
        folder: to write to.

    Raises:
        ExportError: the model can't be exported, or its texts can't be told by tokens alone.
    """
    recogniser, notes = ctc_part(recogniser)
    model, extractor = recogniser.model.eval(), recogniser.feature_extractor
    tokens, special = token_table(recogniser)
    (folder / "tokens.txt").write_text("".join(f"{token} {i}\n" for i, token in enumerate(tokens)), encoding="utf-8")
    what = type(model).__name__
    window = recogniser.least_samples
    program = CTCProgram(recogniser)
    seconds = min(_TRACED_SECONDS, recogniser.max_seconds)
    samples = torch.zeros(2, max(window + 1, int(seconds * extractor.sampling_rate)))
    lengths = torch.tensor([samples.shape[1], samples.shape[1] - 1])
    axes = {"samples": {0: "batch", 1: "time"}, "lengths": {0: "batch"}}
    inputs = {"samples": samples, "lengths": lengths}
    write_graph(program, folder / "offline.onnx", inputs, axes, ["logits", "output_lengths"], what)
    settings = {
        "sampling_rate": extractor.sampling_rate,
        "least_samples": window,
        "seconds_per_step": recogniser.seconds_per_frame,
        "max_seconds": recogniser.max_seconds if math.isfinite(recogniser.max_seconds) else None,
        "vocab_size": len(tokens),
        "blank": int(model.config.pad_token_id),
        "special": special,
        "unknown": recogniser.tokenizer.unk_token_id,
    }
    graphs = {"offline": "offline.onnx"}
    in_float = {"offline": _front_nodes(folder / "offline.onnx")}
    if getattr(extractor, "dither", 0):
        notes.append(f"The dither of the features, {extractor.dither}, is random and left out.")
    reason = recogniser.why_not_streaming
    if reason is None:
        step = StreamingCTCProgram(recogniser)
        states = {f"state_{name}": state for name, state in step.initial_states(2).items()}
        count = int(_TRACED_SECONDS * extractor.sampling_rate) // step.step
        inputs = {"samples": torch.zeros(2, count, step.step), "lengths": torch.full((2,), count * step.step), **states}
        axes = {name: {0: "batch"} for name in inputs} | {"samples": {0: "batch", 1: "steps"}}
        outputs = ["logits", *(name.replace("state_", "next_", 1) for name in states)]
        write_graph(step, folder / "streaming.onnx", inputs, axes, outputs, what)
        graphs["streaming"] = "streaming.onnx"
        in_float["streaming"] = _front_nodes(folder / "streaming.onnx")
        settings |= {"step_samples": step.step, "padding_samples": step.padding, "late_steps": step.late}
        settings["lookahead_ms"] = 1000 * recogniser.seconds_per_frame * step.lookahead
    else:
        notes.append(f"No streaming graph: {reason}.")
    return Written("recognition", graphs, settings, tuple(notes), in_float)


def ctc_part(recogniser: Recogniser) -> tuple[Recogniser, list[str]]:
    """A recogniser with a CTC model: of one with a decoder its encoder and CTC output, and what to say of that."""
    if recogniser.is_ctc:
        return recogniser, []
    if not recogniser.own_features:
        raise ExportError(
            f"{type(recogniser.model).__name__} writes text with a decoder, whose loop has no graph here: export a CTC "
            "model"
        )
    joint: Any = recogniser.model
    config = copy.deepcopy(joint.config)
    config.is_encoder_decoder = False
    model = SeqDyConvForCTC(config.encoder_only()).eval()
    model.encoder, model.ctc_head = joint.encoder, joint.ctc_head
    note = "The decoder is left out: the encoder recognises by its CTC output alone, greedily."
    return Recogniser(model, recogniser.feature_extractor, recogniser.tokenizer), [note]


def token_table(recogniser: Recogniser) -> tuple[list[str], list[int]]:
    """What each output stands for, with ``▁`` between words, and the outputs that are never written."""
    tokenizer: Any = recogniser.tokenizer
    size = int(recogniser.model.config.vocab_size)
    strings = token_strings(tokenizer)
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    tokens = [(text or name) for text, name in zip(strings, names)][:size]
    tokens += [f"<unused{number}>" for number in range(len(tokens), size)]
    never = {i for i in tokenizer.all_special_ids if i < size and tokens[i] != WORD_BOUNDARY}
    special = sorted({*never, *range(len(names), size)})
    ordinary = [number for number in range(size) if number not in special]
    spelled = " ".join("".join(tokens[number] for number in ordinary).replace(WORD_BOUNDARY, " ").split())
    if recogniser.decode_ids(ordinary) != spelled or any(set(token) & set("\r\n") for token in tokens):
        raise ExportError(f"texts of {type(tokenizer).__name__} are not its tokens joined: it can't be exported")
    return tokens, special


def _front_nodes(file: Path) -> tuple[str, ...]:
    """All nodes before the first layer of the model: features lose too much in fewer bits, and overflow in 16."""
    graph = onnx.load(file, load_external_data=False).graph
    constant = {one.name for one in graph.initializer if one.name.split(".")[-1] in ("basis", "mel")}
    behind: set[str] = set()  # values that a layer has made
    front = []
    for node in graph.node:  # sorted, as ONNX asks for
        layer = node.op_type in ("Conv", "MatMul", "Gemm") and not constant & set(node.input)
        if layer or behind & set(node.input):
            behind |= set(node.output)
        else:
            front.append(node.name)
    return tuple(front)
