"""What a model writes for a few fixed examples, printed while it learns."""

from collections.abc import Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from seqdyconv.training.reports import evenly_spaced, format_example
from seqdyconv.training.trainer import TokenBatchTrainer


class SampleOutputs(TrainerCallback):
    """Prints what is generated for a few validation examples, evenly spaced, at each evaluation.

    Args:
        trainer: Its evaluation set is that of `columns`.
        columns: Label → text of each example of the evaluation set, such as its source and its reference.
        number: The most examples.
        label: Of what is generated.
    """

    def __init__(
        self, trainer: TokenBatchTrainer, columns: Mapping[str, Sequence[str]], number: int, label: str = "output"
    ) -> None:
        self.trainer = trainer
        self.rows = evenly_spaced(len(next(iter(columns.values()))), number)
        self.texts = [{name: texts[row] for name, texts in columns.items()} for row in self.rows]
        self.label = label

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """All processes generate, the first one prints."""
        dataset: Any = self.trainer.eval_dataset
        found = self.trainer.generate(dataset.select(self.rows)["input_ids"][:], self.trainer.decoding)
        if state.is_world_process_zero:
            blocks = [format_example({**text, self.label: beams[0].text}) for text, beams in zip(self.texts, found)]
            tqdm.write("\n".join([f"\nAfter {state.global_step} steps", *blocks]))
