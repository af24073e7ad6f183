"""Losses by which two predictions of one example agree: R-Drop and SimCut of translations, CR-CTC of speech."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.models.loading import ModelError
from seqdyconv.models.losses import IGNORED_LABEL, real_steps
from seqdyconv.models.modeling import start_token


def rdrop_loss(logits: Tensor, other_logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of the two Kullback-Leibler divergences of two predictions (Wu et al. 2021, arXiv 2106.14448), summed.

    Args:
        logits: (B, T, V) of one forward pass.
        other_logits: (B, T, V) of another one, with other dropout masks.
        labels: (B, T); positions with -100 don't count.

    Returns:
        A float32 scalar: divide it by the number of tokens.
    """
    p, q = _log_probs(labels != IGNORED_LABEL, logits, other_logits)
    return 0.5 * (_divergence(p, q) + _divergence(q, p))


def simcut_loss(logits: Tensor, cut_logits: Tensor, labels: Tensor) -> Tensor:
    """SimCut (Gao et al. 2022, arXiv 2206.02368): KL(prediction ‖ prediction where tokens were cut), summed.

    The gradient goes through both sides, neither is a fixed target: that is what the paper finds to matter.

    Args:
        logits: (B, T, V) of the pairs as they are.
        cut_logits: (B, T, V) of another forward pass, with :func:`token_cutoff`.
        labels: (B, T); positions with -100 don't count.

    Returns:
        A float32 scalar: divide it by the number of tokens.
    """
    return _divergence(*_log_probs(labels != IGNORED_LABEL, logits, cut_logits))


def cr_ctc_loss(logits: Tensor, other_logits: Tensor, lengths: Tensor) -> Tensor:
    """CR-CTC (Yao et al. 2024, arXiv 2410.05101): how far the predictions of two views of utterances are apart.

    Half of KL(sg(other) ‖ one) + KL(sg(one) ‖ other), summed over the real steps and utterances as CTC losses are, as
    in the paper and its implementation in icefall. sg stops the gradient: each prediction is the fixed target of the
    other one.

    Args:
        logits: (B, T, V) of one view.
        other_logits: (B, T, V) of the other one.
        lengths: (B,) real steps.

    Returns:
        A float32 scalar, in proportion to a CTC loss that is a sum too.
    """
    p, q = _log_probs(real_steps(logits, lengths), logits, other_logits)
    return 0.5 * (_divergence(q.detach(), p) + _divergence(p.detach(), q))


def _log_probs(real: Tensor, *logits: Tensor) -> list[Tensor]:
    """(N, V) log-probabilities of the N real positions of each of the logits."""
    return [each[real].float().log_softmax(dim=-1) for each in logits]


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of log-probabilities, summed."""
    return F.kl_div(q, p, reduction="sum", log_target=True)


@contextlib.contextmanager
def token_cutoff(embeddings: Iterable[nn.Module], probability: float, kept: Tensor) -> Iterator[None]:
    """Within this block the embeddings of random tokens are zero (token cutoff, Shen et al. 2020, arXiv 2009.13818).

    Their positions stay. All is drawn from torch's generator, as dropout is.

    Args:
        embeddings: the modules that make embeddings (B, T, D) of tokens (B, T).
        probability: of each token.
        kept: (N,) tokens that are never cut. In the SimCut authors' implementation that is the end of a source and the
            start of a target; so it is with the control tokens of a vocabulary.
    """

    def cut(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        tokens = inputs[0]
        gone = torch.rand(tokens.shape, device=tokens.device) < probability
        gone &= ~torch.isin(tokens, kept.to(tokens.device))
        return output.masked_fill(gone[..., None], 0)

    with contextlib.ExitStack() as stack:
        for module in embeddings:
            stack.enter_context(module.register_forward_hook(cut))
        yield


def token_embeddings(model: Any) -> list[nn.Module]:
    """The modules that embed the tokens of sources and targets, one where both sides share it.

    Raises:
        ModelError: a model does not tell them.
    """
    try:
        found = [stack.get_input_embeddings() for stack in (model.get_encoder(), model.get_decoder())]
    except (AttributeError, NotImplementedError):
        found = []
    if not found or not all(isinstance(module, nn.Embedding) for module in found):
        raise ModelError(f"simcut_alpha needs a model that tells its token embeddings, {type(model).__name__} does not")
    return list(dict.fromkeys(found))


def control_tokens(model: Any, tokenizer: Any) -> Tensor:
    """(N,) tokens that say where texts begin and end, of which language they are, or where they are padded."""
    special = set() if tokenizer is None else {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    start = start_token(model.config)
    return torch.tensor(sorted(special if start is None else special | {start}), dtype=torch.long)
