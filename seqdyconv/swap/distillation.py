"""Distillation: a swapped model learns to give the hidden states of the original one, layer by layer."""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from seqdyconv.models.losses import IGNORED_LABEL
from seqdyconv.models.modeling import to_padding_mask
from seqdyconv.models.modeling_causal import next_token_labels
from seqdyconv.swap.replacement import swapped_attention


def hidden_state_loss(
    student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], attention_mask: Tensor | None = None
) -> Tensor:
    """The squared distance of all layers' hidden states, relative to the teacher's square, averaged over the layers.

    Known from MobileBERT, TinyBERT and MOHAWK (https://arxiv.org/abs/2408.10189); the ratio makes layers of different
    scale count alike.

    Args:
        student, teacher: each (B, T, D), of the embeddings (not used: both have the same) and of each layer.
        attention_mask: (B, T), 1 = keep; a mask of another length (speech models shorten theirs) is not used.

    Returns:
        A scalar ≥ 0, without unit.

    Raises:
        ValueError: different numbers of layers, or other shapes.
    """
    if len(student) != len(teacher) or student[-1].shape != teacher[-1].shape:
        raise ValueError(
            f"student and teacher must have equal hidden states, got {len(student)} of {tuple(student[-1].shape)} and "
            f"{len(teacher)} of {tuple(teacher[-1].shape)}"
        )
    keep = torch.ones_like(teacher[-1][..., :1])
    if attention_mask is not None and attention_mask.shape == keep.shape[:2]:
        keep = attention_mask[..., None]
    losses = []
    for ours, theirs in zip(student[1:], teacher[1:]):
        theirs = theirs.float() * keep
        losses.append((ours.float() * keep - theirs).square().sum() / theirs.square().sum().clamp(min=1e-6))
    return torch.stack(losses).mean()


def logits_loss(student: Tensor, teacher: Tensor, counted: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) of the distributions that logits give (Hinton et al. 2015, arXiv 1503.02531).

    Args:
        student, teacher: each (B, C), or (B, T, C).
        counted: (B, T) bool, the steps that count; None: all.
        temperature: of both.

    Returns:
        A scalar ≥ 0: the mean over what counts, 0 where nothing does, in nats times the square of the temperature.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
        >>> counted = torch.tensor([True, False])
        >>> round(logits_loss(torch.zeros(2, 2), teacher, counted).item(), 4)  # log 2 − entropy
        0.3681
    """
    if counted is not None:
        student, teacher = student[counted], teacher[counted]
    ours, theirs = ((logits.float() / temperature).flatten(0, -2).log_softmax(-1) for logits in (student, teacher))
    divergence = F.kl_div(ours, theirs, log_target=True, reduction="sum")
    return temperature**2 * divergence / max(1, len(ours))


class DistillationTrainer(Trainer):
    """A Trainer whose loss matches a teacher; with labels in the batch, beside the task's own loss.

    The loss of a batch is ``task loss + matching_weight · hidden_state_loss + logits_weight · KL(teacher ‖ student)``.
    Without labels, as in unlabelled text, there is no task loss; such data may be evaluated too, by the rest of it.

    The divergence is a mean over the rows of a classifier, or over the tokens that count: those with a label, of a
    causal language model those whose next one has one; without labels those that the mask keeps. Hidden states are
    matched where tokens are real: by the mask, or of a language model without one up to a row's last label.

    Of an encoder-decoder the encoders' hidden states are matched, and the decoders' logits. Both decoders get the
    batch's ``decoder_input_ids``, or what its labels make of them; without either, as for unlabelled text, one start
    token.

    Args:
        teacher: the original model, of the same number of layers and width; it is put into eval mode and not trained.
        matching_weight: weight of :func:`hidden_state_loss`.
        matching_until: the fraction of all steps after which the matching term is dropped; 1: never.
        logits_weight: weight of :func:`logits_loss`, in nats per row, or per token; 0: none.
        temperature: of both models' logits in it; the term is multiplied by its square (Hinton et al. 2015).
        mixers_only: train the mixers of the swapped layers alone.
        mixer_learning_rate: the peak learning rate of these mixers; None: that of the rest, ``args.learning_rate``.
            Mixers learn well at rates that undo what the other layers of a pretrained model know.
        dropout: whether the student's dropout is on in training. The teacher has none, so to what is to match it
            dropout is noise, and it costs time; where the task is learnt it regularises. With activation checkpointing
            that which is no module stays on in False, too, as BART's.
        args, kwargs: of :class:`transformers.Trainer`.

    Raises:
        ValueError: weights below 0 or a fraction outside [0, 1]; ``mixers_only`` or ``mixer_learning_rate`` for a model
            without swapped layers, or both.

    Example::

        teacher = AutoModelForSequenceClassification.from_pretrained("fine-tuned")
        student = swap_self_attention(copy.deepcopy(teacher), kernel_size=31, calibration=batches)
        DistillationTrainer(student, args, train_dataset=unlabelled, data_collator=collator, teacher=teacher).train()
    """

    def __init__(
        self,
        *args: Any,
        teacher: PreTrainedModel,
        matching_weight: float = 1.0,
        matching_until: float = 1.0,
        logits_weight: float = 0.0,
        temperature: float = 1.0,
        mixers_only: bool = False,
        mixer_learning_rate: float | None = None,
        dropout: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        for name, value in (("matching_weight", matching_weight), ("logits_weight", logits_weight)):
            if value < 0:
                raise ValueError(f"{name} must be >= 0, got {value}")
        if not 0 <= matching_until <= 1:
            raise ValueError(f"matching_until is a fraction of the steps, in [0, 1], got {matching_until}")
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        if mixer_learning_rate is not None:
            if mixers_only:
                raise ValueError("mixers_only trains nothing else: its learning rate is args.learning_rate")
            if mixer_learning_rate < 0:
                raise ValueError(f"mixer_learning_rate must be >= 0, got {mixer_learning_rate}")
            mixer_parameters(self.model)  # type: ignore[arg-type]  # are there any?
        self.mixer_learning_rate = mixer_learning_rate
        self.teacher: Any = teacher.eval().requires_grad_(False)
        self.teacher.to(self.args.device)
        has_decoder = "decoder_input_ids" in inspect.signature(self.teacher.forward).parameters
        is_base_model = type(teacher).__name__ in MODEL_MAPPING_NAMES.values()
        self.needs_decoder_inputs = has_decoder and (teacher.can_generate() or is_base_model)
        """Whether the models have decoders that don't read the source."""
        self.predicts_next = teacher.can_generate() and not self.teacher.config.is_encoder_decoder
        """Whether each step's logits are those of the next one's label."""
        self.matching_weight = matching_weight
        self.matching_until = matching_until
        self.logits_weight = logits_weight
        self.temperature = temperature
        self.dropout = dropout
        # Every term is a mean over the batch, which the Trainer then divides by the gradient accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        if mixers_only:
            train_mixers_only(self.model)  # type: ignore[arg-type]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As the Trainer's, with the mixers in groups of their own where they have their own learning rate."""
        begun = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if begun or self.mixer_learning_rate is None:
            return optimizer
        mixers = set(mixer_parameters(model or self.model))  # type: ignore[arg-type]
        for group in list(optimizer.param_groups):
            own = [one for one in group["params"] if one in mixers]
            group["params"] = [one for one in group["params"] if one not in mixers]
            optimizer.add_param_group({**group, "params": own, "lr": self.mixer_learning_rate})
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The sum of all terms; in evaluation, where there are labels, the task loss alone."""
        labelled = "labels" in inputs
        matching_steps = self.matching_until * self.state.max_steps
        matches = self.matching_weight > 0 and (
            not labelled or (model.training and self.state.global_step < matching_steps)
        )
        distils = self.logits_weight > 0 and (not labelled or model.training)
        self.stop_dropout(model)
        inputs = {**inputs, **self.decoder_inputs(inputs)}
        known = {name: value for name, value in inputs.items() if name != "labels"}
        if self.predicts_next:
            known["use_cache"] = False
        if labelled:
            # A copy: the Trainer takes the labels out where it smooths them.
            wanted = {**inputs, "output_hidden_states": True} if matches else {**inputs}
            loss, outputs = super().compute_loss(model, wanted, return_outputs=True)
        else:
            loss, outputs = 0.0, model(**known, output_hidden_states=matches)
        if matches or distils:
            taught = self.ask_teacher(**known, output_hidden_states=matches)
        if matches:
            distance = hidden_state_loss(_hidden_states(outputs), _hidden_states(taught), self._real_steps(inputs))
            loss = loss + self.matching_weight * distance
        if distils:
            counted = self._counted_steps(outputs.logits, inputs)
            loss = loss + self.logits_weight * logits_loss(outputs.logits, taught.logits, counted, self.temperature)
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def ask_teacher(self, **inputs: Any) -> Any:
        """The teacher's outputs, computed in the precision of the training: the Trainer sees to the student's alone."""
        with self.accelerator.autocast():
            return self.teacher(**inputs)

    def stop_dropout(self, model: nn.Module) -> None:
        """With ``dropout=False`` put a model that trains into eval mode, until the Trainer begins the next step.

        But for layers with activation checkpointing: only in training mode do they compute again. Their parts are in
        eval mode.
        """
        if model.training and not self.dropout:
            for module in model.modules():
                module.training = bool(getattr(module, "gradient_checkpointing", False))

    def _real_steps(self, inputs: dict[str, Any]) -> Tensor | None:
        """Which steps (B, T) are no padding; None: all."""
        mask, labels = inputs.get("attention_mask"), inputs.get("labels")
        if mask is None and labels is not None and self.predicts_next:  # padding on the right needs no mask
            return (labels != IGNORED_LABEL).flip(1).cumsum(1).flip(1) > 0
        return mask

    def _counted_steps(self, logits: Tensor, inputs: dict[str, Any]) -> Tensor | None:
        """Which steps (B, T) of logits (B, T, C) are matched; None: all."""
        labels = inputs.get("labels")
        mask = inputs.get("decoder_attention_mask" if self.needs_decoder_inputs else "attention_mask")
        if labels is not None and logits.dim() == 3 and labels.shape == logits.shape[:2]:
            if self.predicts_next:
                labels = next_token_labels(labels, to_padding_mask(mask), inputs.get("cu_seqlens"))
            return labels != IGNORED_LABEL
        return mask != 0 if mask is not None and mask.shape == logits.shape[:-1] else None

    def decoder_inputs(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """What student and teacher need beside the batch, where they have decoders that don't read the source."""
        teacher = self.teacher
        given = any(inputs.get(name) is not None for name in ("decoder_input_ids", "decoder_inputs_embeds"))
        if given or not self.needs_decoder_inputs:
            return {}
        labels = inputs.get("labels")
        if labels is not None and hasattr(teacher, "prepare_decoder_input_ids_from_labels"):
            return {"decoder_input_ids": teacher.prepare_decoder_input_ids_from_labels(labels=labels)}
        names = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
        places = [place for place in (getattr(teacher, "generation_config", None), teacher.config) if place is not None]
        tokens = [getattr(place, name, None) for name in names for place in places]
        start = next((token for token in tokens if isinstance(token, int)), 0)
        if labels is None:
            source = next(value for name, value in inputs.items() if "input" in name)
            return {"decoder_input_ids": torch.full((len(source), 1), start, device=source.device)}
        shifted = F.pad(labels[:, :-1], (1, 0), value=start)
        return {"decoder_input_ids": shifted.masked_fill(shifted < 0, teacher.config.pad_token_id or 0)}

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Any, Any]:
        """As the Trainer's; a batch without labels gives its matching loss and nothing else."""
        if "labels" in inputs:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None


def train_mixers_only(model: nn.Module) -> None:
    """Let the mixers of the swapped layers alone be trained: all other parameters need no gradient any more."""
    mixers = mixer_parameters(model)
    model.requires_grad_(False)
    for parameter in mixers:
        parameter.requires_grad_(True)


def mixer_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the mixers of the swapped layers.

    Raises:
        ValueError: no layer is swapped.
    """
    found = [one for swapped in swapped_attention(model).values() for one in swapped.mixer.parameters()]
    if not found:
        raise ValueError("the model has no swapped layers whose mixers could be trained by themselves")
    return found


def _hidden_states(outputs: Any) -> tuple[Tensor, ...]:
    found = outputs.get("hidden_states") or outputs.get("encoder_hidden_states")
    if not found:
        raise ValueError(f"the model returns no hidden states, but only {', '.join(outputs)}")
    return found
