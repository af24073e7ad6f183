"""Options that programs with and without torch share."""

from dataclasses import dataclass, field
from typing import Annotated

from seqdyconv.ranges import Beams, Count, Options, Range


@dataclass
class DecodingArguments(Options):
    """How outputs are searched for."""

    num_beams: Beams = field(default=4, metadata={"help": "Beams of the search; 1 is greedy."})
    length_penalty: Annotated[float, Range(-10, 10)] = field(
        default=1.0,
        metadata={"help": "Beam scores are divided by length ** length_penalty; above 1 favours long ones."},
    )
    max_length_factor: Annotated[float, Range(0, 1000)] = field(
        default=1.5, metadata={"help": "Longest output: max_length_factor * source tokens + max_length_constant."}
    )
    max_length_constant: Annotated[int, Range(1, 1_000_000)] = field(
        default=10, metadata={"help": "See max_length_factor."}
    )
    decoding_max_tokens: Count = field(
        default=8000, metadata={"help": "Bound of a batch in decoding: sentences * longest source * beams."}
    )
