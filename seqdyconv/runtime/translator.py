"""Translation with an exported model: batches by length, beam search or greedy, without torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from seqdyconv.errors import InputError, first_line
from seqdyconv.runtime.batches import batches_of_similar_lengths
from seqdyconv.runtime.folder import Array, FolderError, Graph, checked_ids, open_folder
from seqdyconv.runtime.search import Hypothesis, output_limits, search
from seqdyconv.runtime.tokenizer import TOKENIZER, check_list, load_tokenizer

_MOST_NUMBERS = 2**28
"""Of the state of a sentence: a graph that says it has more is damaged."""
TARGET_TOKENIZER = "target_tokenizer.json"
"""The file of the target's tokens, where they are others than the source's."""
BEST = ("best_scores", "best_candidates", "ending")
"""What a step gives beside the next states."""


class Translator:
    """Translates texts. Several threads may use one.

    Args:
        folder: that ``seqdyconv export`` has written of a translation model.
        threads: that compute one batch; 0: as many as there are cores.

    Attributes:
        most_tokens: that a text may have, its end included.

    Raises:
        FolderError: the folder is damaged, newer than this version, or for another task.

    Example:
        >>> from seqdyconv.runtime import Translator
        >>> translator = Translator("outputs/de_en_int8")  # doctest: +SKIP
        >>> translator.translate(["Klicken Sie auf das Symbol."])  # doctest: +SKIP
        ['Click the icon.']
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        exported = open_folder(folder, "translation")
        self._sources = exported.number("source_vocabulary", 1)
        self._vocabulary = exported.number("vocabulary", 1)
        self._start = exported.number("start", 0, self._vocabulary - 1)
        self._pad = exported.number("pad", 0, self._sources - 1)
        self._ends: list[int] = exported.settings.get("ends")  # type: ignore[assignment]
        if not isinstance(self._ends, list) or not self._ends or not set(self._ends) <= set(range(self._vocabulary)):
            raise FolderError(f"the settings of {folder} must have ends, of its tokens, got {str(self._ends)[:80]}")
        most = exported.settings.get("most_tokens")
        self.most_tokens: float = math.inf if most is None else exported.number("most_tokens", 1)
        heads, width = exported.number("heads", 1), exported.number("width", 1)
        self._memory: dict[str, tuple[int | None, ...]] = {"bias": (None, 1, 1, None)}
        for layer in range(exported.number("layers", 1, 10_000)):
            self._memory[f"key_{layer}"] = (None, heads, width, None)
            self._memory[f"value_{layer}"] = (None, heads, None, width)
        self._tokenizer = self._decoder = load_tokenizer(exported.folder)
        if (exported.folder / TARGET_TOKENIZER).is_file():
            self._decoder = load_tokenizer(exported.folder, name=TARGET_TOKENIZER)
        marker = exported.settings.get("subword_marker")
        self._subword_end = f"{marker} " if isinstance(marker, str) and marker else None
        self._tokenizer_name = str(exported.folder / TOKENIZER)
        self._encoder, self._step = (exported.graph(name, threads) for name in ("encoder", "step"))
        self._encoder.check({"input_ids": (None, None), "attention_mask": (None, None)}, self._memory)
        beams = ("input_ids", "rows", "scores")
        self._step.check(
            {**dict.fromkeys(beams, (None, None)), "position": (1, 1), **self._memory},
            dict.fromkeys(BEST, (None, None)),
            more_inputs=["state_"],
            more_outputs=["next_state_"],
        )
        self._states = _first_states(self._step)

    def translate(self, texts: Sequence[str], num_beams: int = 4, **options: Any) -> list[str]:
        """The translation of each text, in their order.

        Args:
            texts: of any number and lengths; an empty one has an empty translation.
            num_beams: of the search; 1 is greedy.
            options: as of :meth:`search`.

        Raises:
            InputError: a text has more than ``most_tokens`` tokens, or it is one text, and no list of them.
            FolderError: the graphs do not compute what they should.
        """
        return [found[0].text for found in self.search(texts, num_beams, **options)]

    def search(self, texts: Sequence[str], num_beams: int = 4, **options: Any) -> list[list[Hypothesis]]:
        """The best translations of each text, in their order.

        Args:
            texts, num_beams: as of :meth:`translate`.
            options: as of :meth:`search_ids`.
        """
        check_list(texts)
        found = [[Hypothesis("", 0)] for _ in texts]
        filled = [number for number, text in enumerate(texts) if text.strip()]
        ids = self.encode([texts[number] for number in filled])
        for number, each in zip(filled, self.search_ids(ids, num_beams, **options)):
            found[number] = each
        return found

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text.

        Raises:
            InputError: it is one text, and no list of them.
            FolderError: the tokenizer is another model's.
        """
        check_list(texts)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        for each in ids:
            checked_ids(np.array(each), self._sources, self._tokenizer_name)
        return ids

    def search_ids(
        self,
        inputs: Sequence[Sequence[int]],
        num_beams: int = 4,
        *,
        nbest: int = 1,
        length_penalty: float = 1.0,
        max_length_factor: float = 1.5,
        max_length_constant: int = 10,
        max_tokens: int = 8000,
        on_batch: Callable[[int], object] | None = None,
    ) -> list[list[Hypothesis]]:
        """The best translations of each text given as tokens, as of :meth:`encode`.

        Args:
            inputs: at least one token each.
            num_beams: of the search; 1 is greedy.
            nbest: translations of each, at most ``num_beams``.
            length_penalty: scores are divided by length ** length_penalty; above 1 favours long ones.
            max_length_factor, max_length_constant: the longest output has that many tokens for each of the source, plus
                a constant.
            max_tokens: bound of a batch: sentences · longest source · beams.
            on_batch: is called after each batch with its number of texts.
        """
        if not 1 <= nbest <= num_beams:
            raise InputError(f"nbest must be between 1 and num_beams = {num_beams}, got {nbest}")
        if num_beams * (1 + len(self._ends)) > self._vocabulary:
            raise InputError(f"num_beams is {num_beams}, and the model has no more than {self._vocabulary} tokens")
        longest = max(map(len, inputs), default=0)
        if longest > self.most_tokens:
            raise InputError(f"there is a text of {longest} tokens, and the model has {self.most_tokens}: shorten it")
        found: list[list[Hypothesis]] = [[] for _ in inputs]
        bound = max(1, max_tokens // num_beams)
        for batch in batches_of_similar_lengths([len(ids) for ids in inputs], bound)[::-1]:  # long ones first
            sources = [inputs[number] for number in batch]
            outputs = search(
                _Step(self, sources),
                output_limits(sources, max_length_factor, max_length_constant, self.most_tokens),
                num_beams=num_beams,
                start=self._start,
                ends=self._ends,
                vocabulary=self._vocabulary,
                length_penalty=length_penalty,
                nbest=nbest,
            )
            for number, each in zip(batch, outputs):
                ids = [[token for token in one.tokens if token != self._pad] for one in each]
                texts = self._decoder.decode_batch(ids, skip_special_tokens=True)
                if self._subword_end is not None:
                    texts = [f"{text} ".replace(self._subword_end, "").rstrip() for text in texts]
                found[number] = [Hypothesis(text, len(i), one.score) for text, i, one in zip(texts, ids, each)]
            if on_batch is not None:
                on_batch(len(batch))
        return found


def _first_states(step: Graph) -> dict[str, onnxruntime.OrtValue]:
    """Zeros: a row, and no steps where their number is free."""
    names = [name for name in step.inputs if name.startswith("state_")]
    if {f"next_{name}" for name in names} != set(step.outputs) - set(BEST):
        raise FolderError(f"{step.file} must give the next one of each of its states {', '.join(names)}")
    dtypes = {"tensor(float)": np.float32, "tensor(bool)": np.bool_, "tensor(int64)": np.int64}
    states = {}
    for name in names:
        shape = [1, *(size if isinstance(size, int) else 0 for size in step.inputs[name][1:])]
        dtype = dtypes.get(step.types[name])
        if dtype is None or math.prod(shape) > _MOST_NUMBERS:
            raise FolderError(f"{step.file} has a state {name} of {step.types[name]} {shape}, which can't be")
        states[name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype))
    return states


class _Step:
    """The graphs as a step of a search, for one batch. What they say to each other stays where it is."""

    def __init__(self, translator: Translator, inputs: Sequence[Sequence[int]]) -> None:
        self.graph = translator._step
        self.binding = self.graph.session.io_binding()
        self.vocabulary = translator._vocabulary
        self.ends = len(translator._ends)
        self.states = translator._states
        self.position = np.zeros((1, 1), np.int64)
        longest = max(map(len, inputs))
        tokens = np.array([[*ids, *[translator._pad] * (longest - len(ids))] for ids in inputs], np.int64)
        mask = np.array([[1] * len(ids) + [0] * (longest - len(ids)) for ids in inputs], np.int64)
        encoded = translator._encoder.run({"input_ids": tokens, "attention_mask": mask})
        self.memory = {name: encoded[name] for name in translator._memory}
        self._bind(self.memory)

    def __call__(self, tokens: Array, rows: Array, scores: Array, kept: Array | None) -> tuple[Array, Array, Array]:
        if kept is not None:
            self.memory = {name: each[kept] for name, each in self.memory.items()}
            self._bind(self.memory)
        self._bind({"input_ids": tokens, "position": self.position, "rows": rows, "scores": scores})
        binding = self.binding
        for name, state in self.states.items():
            binding.bind_ortvalue_input(name, state)
        binding.clear_binding_outputs()  # else the next states would be written over those that are read
        for name in BEST:
            binding.bind_output(name)
        for name in self.states:
            binding.bind_output(f"next_{name}")
        try:
            self.graph.session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime documents none of its own
            raise FolderError(f"{self.graph.file} can't compute: {first_line(error)[:300]}") from None
        best_scores, candidates, ending, *states = binding.get_outputs()
        self.states = dict(zip(self.states, states))
        self.position = self.position + 1
        best = best_scores.numpy(), candidates.numpy(), ending.numpy()
        wanted = (len(tokens), tokens.shape[1] * (1 + self.ends))
        size = tokens.shape[1] * self.vocabulary
        if [each.shape for each in best] != [wanted, wanted, tokens.shape] or not _within(best[1], size):
            raise FolderError(f"{self.graph.file} does not give the best candidates: it is damaged")
        return best

    def _bind(self, inputs: Mapping[str, Array]) -> None:
        for name, array in inputs.items():
            self.binding.bind_cpu_input(name, array)


def _within(candidates: Array, size: int) -> bool:
    return candidates.dtype == np.int64 and bool(candidates.view(np.uint64).max() < size)
