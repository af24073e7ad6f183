"""Encoders that learn which tokens of a text were masked (Devlin et al. 2018, arXiv 1810.04805): masks and Trainer."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorForLanguageModeling, PreTrainedModel, PreTrainedTokenizerBase

from seqdyconv.models.loading import ModelError
from seqdyconv.models.losses import IGNORED_LABEL, precise, token_loss
from seqdyconv.training.language_models import LanguageModelTrainer, RowCollator, perplexity, sums_over_rows


class TokenMasks:
    """Chooses tokens that are to be predicted: of these eight in ten are masked, one is another token, one stays.

    Args:
        tokenizer: It has a mask token, and special ones, which are never chosen.
        probability: That a token is chosen.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, probability: float) -> None:
        self.collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability)
        self.special = torch.tensor(tokenizer.all_special_ids)

    def draw(self, tokens: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The tokens (B, T) with masks, and the labels: the tokens that were chosen, −100 elsewhere.

        Args:
            tokens: (B, T).
            labels: (B, T) −100 where nothing may be chosen.
            generator: of the draws.
        """
        self.collator.generator = generator
        inputs, fixed = tokens.long().cpu(), (labels == IGNORED_LABEL).cpu()
        inputs, chosen = self.collator.torch_mask_tokens(inputs.clone(), fixed | torch.isin(inputs, self.special))
        return inputs.to(tokens.device), chosen.to(tokens.device)

    def batch(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """A batch with masks."""
        inputs, labels = self.draw(batch["input_ids"], batch["labels"], generator)
        return {**batch, "input_ids": inputs, "labels": labels}

    def rows(self, rows: Dataset) -> Dataset:
        """All rows with masks that are always the same: they depend on the number of a row alone."""
        columns: dict[str, list[Any]] = {"input_ids": [], "labels": []}
        for found in self._drawn(rows):
            for name, values in zip(columns, found):
                columns[name].append(values.tolist())
        return Dataset.from_dict(columns)

    def check(self, rows: Dataset) -> None:
        """Refuse rows of so few tokens that none of them is chosen; looks no further than the first one.

        Raises:
            ModelError: none is.
        """
        if not any((labels != IGNORED_LABEL).any() for _, labels in self._drawn(rows)):
            raise ModelError(
                f"masked tokens are to be predicted, and of {sum(map(len, rows['input_ids']))} tokens none is drawn: "
                "evaluate on more text, or set a larger mlm_probability"
            )

    def _drawn(self, rows: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
        for number, row in enumerate(rows):
            tokens, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
            labels[0] = IGNORED_LABEL  # of the row before, or special
            inputs, chosen = self.draw(tokens[None], labels[None], torch.Generator().manual_seed(number))
            yield inputs[0], chosen[0]


class EncoderRows(RowCollator):
    """Rows of tokens with labels; where they are padded, with an ``attention_mask``."""

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch = super().__call__(examples)
        if not self.packing:
            lengths = torch.tensor([len(example["input_ids"]) for example in examples])
            batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
        return batch


class MaskedLanguageModelTrainer(LanguageModelTrainer):
    """Trains on rows of tokens of which some are masked, drawn anew in each step.

    Args:
        masks: They choose what is masked.

    Raises:
        ModelError: Nothing of the evaluation set is masked.
    """

    def __init__(self, *, masks: TokenMasks, **kwargs: Any) -> None:
        super().__init__(compute_loss_func=self._loss, **kwargs)
        self.masks = masks
        self.data_collator, self.train_collator = EncoderRows(packing=False), EncoderRows(self.args.packing)
        if self.eval_dataset is not None:
            masks.check(self.eval_dataset)

    def _loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        # Models of transformers give the mean over a batch, which is not its share of the mean over a step.
        return token_loss(outputs.logits, labels, num_items_in_batch)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The batches of one step, masked, and their number of labels."""
        # By the number of the step: torch's own state is read from a checkpoint only after its first batch is there.
        numbers = (self.args.order_seed, self.state.global_step, self.args.process_index)
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
        batches = (self.masks.batch(batch, generator) for batch in epoch_iterator)
        return super().get_batch_samples(batches, num_batches, device)

    def measure(self, dataset: Dataset) -> dict[str, float]:
        """As :func:`masked_costs` has it; all processes share the work, and each gets the result."""
        self.masks.check(dataset)
        return masked_costs(*self.sums(masked_cost, self.masks.rows(dataset)))


def masked_cost(model: Any, batch: dict[str, Tensor]) -> tuple[float, int, int]:
    """The nats of the labels of a batch, how many are predicted right, and their number."""
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    chosen = batch["labels"] != IGNORED_LABEL
    logits, labels = precise(model(**inputs).logits[chosen]), batch["labels"][chosen].long()
    nats = F.cross_entropy(logits, labels, reduction="sum").item()
    return nats, int((logits.argmax(-1) == labels).sum()), len(labels)


def cost_of_masked_rows(
    model: PreTrainedModel,
    rows: Dataset,
    masks: TokenMasks,
    batch_size: int,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, float]:
    """The cost of rows, as the Trainer has it, in batches of so many; `progress` gets the number of each.

    Raises:
        ModelError: Nothing of them is masked.
    """
    masks.check(rows)
    collate = EncoderRows(packing=False)
    return masked_costs(*sums_over_rows(masked_cost, model, masks.rows(rows), collate, batch_size, progress))


def masked_costs(nats: float, right: float, tokens: float) -> dict[str, float]:
    """What so many masked tokens cost: loss in nats for each, perplexity, e to that, and what is right in percent."""
    loss = nats / tokens
    return {"loss": loss, "perplexity": perplexity(loss), "masked_accuracy": 100 * right / tokens}


def fill_in(model: Any, tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[str, str]:
    """A text with every seventh token masked, and with what the model puts there between brackets."""
    read = tokenizer(text, truncation=True, max_length=60, split_special_tokens=True)["input_ids"]
    tokens = torch.tensor(read, device=model.device)
    special = torch.isin(tokens, torch.tensor(tokenizer.all_special_ids, device=tokens.device))
    chosen = (torch.arange(len(tokens), device=tokens.device) % 7 == 3) & ~special
    masked = tokens.masked_fill(chosen, tokenizer.mask_token_id)
    with torch.inference_mode():
        found = model(masked[None]).logits[0].argmax(-1)
    written = str(tokenizer.decode(masked[chosen | ~special]))
    filled, *pieces = written.split(str(tokenizer.mask_token))
    for token, piece in zip(found[chosen], pieces):
        filled += f"[{tokenizer.decode(token[None])}]{piece}"
    return written, filled
