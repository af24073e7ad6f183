"""One speech model at several latencies: its errors, its speed, and how often words change that are shown early."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from torch import Tensor
from tqdm.auto import tqdm

from seqdyconv.ranges import Options, Range, Weight
from seqdyconv.scores.stability import PartialStability
from seqdyconv.speech.recogniser import Recogniser
from seqdyconv.speech.stream import RecognitionStream


@dataclass
class LookaheadArguments(Options):
    """How far a model looks ahead that is evaluated."""

    lookahead_ms: list[Weight] | None = field(
        default=None,
        metadata={
            "help": "Evaluate a streaming model that looks at most so many milliseconds ahead, all layers together; "
            "each number is a row of a table of latency against errors."
        },
    )
    chunk_seconds: Annotated[float, Range(0.001, 60)] = field(
        default=0.32, metadata={"help": "Seconds of audio that a stream takes at once, for that table."}
    )

    def choices(self, recogniser: Recogniser) -> list[float]:
        """The look-aheads in milliseconds, as the model can have them; none where nothing is chosen.

        Raises:
            ModelError: the model hears the whole utterance.
        """
        found = [recogniser.set_lookahead(milliseconds) for milliseconds in self.lookahead_ms or ()]
        return list(dict.fromkeys(found))  # two may be the same once they are rounded


def stream_all(recogniser: Recogniser, utterances: Sequence[Tensor], chunk_seconds: float) -> dict[str, float]:
    """Recognise each utterance chunk by chunk.

    Args:
        recogniser: with a CTC model that streams.
        utterances: samples (N,) of each, at the rate of its features.
        chunk_seconds: how much audio a chunk has.

    Returns:
        ``latency_seconds`` from a sound to the final output about it, chunks included and computing not;
        ``streaming_real_time_factor``; and ``unstable_partial_word_ratio`` of all that is heard, shown after every
        chunk, see :class:`seqdyconv.scores.stability.PartialStability`.

    Raises:
        ModelError: the model does not stream.
    """
    rate = recogniser.feature_extractor.sampling_rate
    stream, stability = RecognitionStream(recogniser), PartialStability()
    size = max(1, round(chunk_seconds * rate))
    heard = busy = 0.0
    for row in tqdm(range(len(utterances)), desc="Streaming"):
        samples = utterances[row]
        heard += len(samples) / rate
        for piece in [*samples.split(size), None]:
            start = time.perf_counter()
            words = stream.finish() if piece is None else stream.push(piece)
            busy += time.perf_counter() - start
            stability.show(stream.partial(), final=words)
    return {
        "latency_seconds": stream.latency + chunk_seconds,
        "streaming_real_time_factor": busy / heard,
        "unstable_partial_word_ratio": stability.ratio,
    }


def latency_table(rows: Sequence[Mapping[str, Any]], split: str) -> str:
    """The metrics of a model at several look-aheads as a table in Markdown."""
    columns = {
        "look-ahead (ms)": ("lookahead_ms", "{:g}"),
        "latency (s)": (f"{split}_latency_seconds", "{:.2f}"),
        f"{split} CER": (f"{split}_cer", "{:.2f}"),
        f"{split} WER": (f"{split}_wer", "{:.2f}"),
        "real-time factor": (f"{split}_streaming_real_time_factor", "{:.4f}"),
        "words changed": (f"{split}_unstable_partial_word_ratio", "{:.3f}"),
    }
    cells = [[form.format(row[name]) if name in row else "" for name, form in columns.values()] for row in rows]
    lines = [list(columns), ["--:"] * len(columns), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
