"""Scores of CTC for a decoder's search: how likely the audio's transcript starts with the tokens so far."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LogitsProcessor

LOWEST = -1e4
"""The score of what CTC holds impossible: finite, so that sums of scores stay exact and the decoder can decide."""


class CTCPrefixScorer:
    r"""Prefix probabilities of CTC (Watanabe et al. 2017, https://doi.org/10.1109/JSTSP.2017.2763455, section IV-D).

    A prefix h is followed through the frames by its forward variables: the log-probability that the first t frames are
    aligned to h and end in its last token, :math:`r^n_t`, or in a blank, :math:`r^b_t`. Those of h·c come from them by
    two sums over time, here in closed form as cumulative sums of logarithms, so nothing loops over frames.

    Any number of prefixes is followed at a time, as many for each utterance: N = B·P, those of one utterance together.

    Args:
        log_probs: (B, T, V) log-probabilities, of any dtype; computed with in float64.
        blank: the token of the blank.
        lengths: (B,) real steps; None: all.
    """

    def __init__(self, log_probs: Tensor, blank: int, lengths: Tensor | None = None) -> None:
        # Finite: differences of cumulative sums are taken below.
        self.log_probs = log_probs.double().clamp(min=LOWEST)
        self.blank = blank
        if lengths is not None:
            # A blank that is sure, and nothing else, changes no probability: so padding is no special case from here.
            steps = torch.arange(log_probs.shape[1], device=log_probs.device)
            padding = (steps >= lengths[:, None])[..., None]
            sure = torch.full((log_probs.shape[2],), LOWEST, dtype=torch.float64, device=log_probs.device)
            sure[blank] = 0
            self.log_probs = torch.where(padding, sure, self.log_probs)
        self.probs = self.log_probs.exp()

    def empty_prefix(self) -> tuple[Tensor, Tensor]:
        """Of the prefix without tokens: the forward variables (B, 2, T+1) and the log-probability (B,), which is 0."""
        blanks = F.pad(self.log_probs[..., self.blank].cumsum(1), (1, 0))
        return torch.stack([torch.full_like(blanks, -torch.inf), blanks], dim=1), blanks[:, 0]

    def extend(self, variables: Tensor, last: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Each of N prefixes followed by one token.

        Args:
            variables: (N, 2, T+1), of the prefixes.
            last: (N,) their last tokens, −1 where there is none.
            tokens: (N,).

        Returns:
            The forward variables (N, 2, T+1) of the longer prefixes, and their log-probabilities (N,).
        """
        utterances = self.utterances(len(tokens))
        token, blank = self.log_probs[utterances, :, tokens], self.log_probs[utterances, :, self.blank]
        before = self._before(variables, last == tokens)
        nonblank = _chain(before, token)
        ends = torch.stack([nonblank, _chain(nonblank[:, :-1], blank)], dim=1)
        return ends, (before + token).logsumexp(1)

    def next_tokens(self, variables: Tensor, last: Tensor) -> Tensor:
        """The log-probabilities (N, V) of the N prefixes followed by each token, a blank being none; arguments as of
        :meth:`extend`."""
        before = self._before(variables, torch.zeros_like(last, dtype=torch.bool))
        top = before.amax(1, keepdim=True).clamp(min=LOWEST * before.shape[1])
        scores = ((before - top).exp().unflatten(0, (len(self.probs), -1)) @ self.probs).flatten(0, 1).log() + top
        # The last token again needs a blank between: another sum.
        utterances = self.utterances(len(last))
        rows, repeated = torch.arange(len(last), device=last.device), last.clamp(min=0)
        again = (self._before(variables, last >= 0) + self.log_probs[utterances, :, repeated]).logsumexp(1)
        scores[rows, repeated] = torch.where(last >= 0, again, scores[rows, repeated])
        scores[:, self.blank] = -torch.inf
        return scores

    def whole(self, variables: Tensor) -> Tensor:
        """The log-probabilities (N,) of N prefixes being the whole transcript."""
        return variables[:, :, -1].logsumexp(1)

    def utterances(self, count: int) -> Tensor:
        """Which utterance each of N = ``count`` prefixes belongs to, (N,)."""
        return torch.arange(count, device=self.probs.device) // (count // len(self.probs))

    def _before(self, variables: Tensor, repeats: Tensor) -> Tensor:
        """(N, T): log-probability that a new token may start at each step: the prefix was complete the step before."""
        nonblank, blank = variables[:, :, :-1].unbind(1)
        return torch.where(repeats[:, None], blank, nonblank.logaddexp(blank))


def _chain(entering: Tensor, staying: Tensor) -> Tensor:
    """(N, T) each → (N, T+1): r[0] = −∞, r[t] = log(exp(r[t−1]) + exp(entering[t])) + staying[t]."""
    total = staying.cumsum(1)
    inside = total + (entering - (total - staying)).logcumsumexp(1)
    return F.pad(inside, (1, 0), value=-torch.inf)


class CTCPrefixLogitsProcessor(LogitsProcessor):
    """Joint decoding of attention and CTC in ``generate()`` (Watanabe et al. 2017,
    https://doi.org/10.1109/JSTSP.2017.2763455).

    The score of a token becomes ``(1 − weight) · log p_attention + weight · log p_ctc``, where the second is how much
    less likely the transcript starts with the longer prefix than with the shorter; the end of the sentence gets how
    likely the prefix is the whole transcript. Prefixes are looked up by their tokens, so beams may be reordered,
    dropped and multiplied.

    Args:
        log_probs: (B, T, V) log-probabilities of CTC.
        blank: its blank, which the decoder may not choose.
        eos_token_id: the tokens that end a sentence.
        weight: of CTC, from 0 to 1.
        lengths: (B,) real steps; None: all.
    """

    def __init__(
        self,
        log_probs: Tensor,
        blank: int,
        eos_token_id: int | list[int] | None,
        weight: float,
        lengths: Tensor | None = None,
    ) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"ctc_weight must be in [0, 1], got {weight!r}")
        self.scorer = CTCPrefixScorer(log_probs, blank, lengths)
        self.blank = blank
        self.ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or [])
        self.weight = weight
        self.known: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Mix the scores.

        Args:
            input_ids: (N, L), N / B beams for each item of the batch; the first token starts the decoder.
            scores: (N, V) of the attention decoder, logits or log-probabilities.

        Returns:
            (N, V).
        """
        variables, prefix = self._follow(input_ids)
        ctc = self.scorer.next_tokens(variables, self._last_tokens(input_ids))
        ctc[:, self.ends] = self.scorer.whole(variables)[:, None]
        gain = (ctc - prefix[:, None]).nan_to_num(LOWEST).clamp(min=LOWEST).to(scores.dtype)
        attention = scores.log_softmax(-1)
        # What another processor has forbidden stays so, also where the decoder has no weight.
        mixed = (1 - self.weight) * attention + self.weight * gain
        return mixed.masked_fill(scores == -torch.inf, -torch.inf)

    def _follow(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Forward variables and log-probability of each row's tokens; from those a token shorter, where known."""
        utterances = self.scorer.utterances(len(input_ids))
        keys = [(utterance, *tokens) for utterance, tokens in zip(utterances.tolist(), input_ids.tolist())]
        if not all(key in self.known for key in keys):
            if input_ids.shape[1] == 1:
                variables, prefix = (part[utterances] for part in self.scorer.empty_prefix())
            else:
                shorter = input_ids[:, :-1]
                variables, prefix = self._follow(shorter)
                last, tokens = self._last_tokens(shorter), input_ids[:, -1]
                # A finished sentence goes on as padding, in its batch; what CTC thinks of that is not asked.
                ended = torch.isin(tokens, torch.tensor([self.blank, *self.ends], device=tokens.device))
                longer, longer_prefix = self.scorer.extend(variables, last, tokens)
                variables = torch.where(ended[:, None, None], variables, longer)
                prefix = torch.where(ended, prefix, longer_prefix)
            self.known = dict(zip(keys, zip(variables, prefix)))
        rows = [self.known[key] for key in keys]
        return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])

    def _last_tokens(self, input_ids: Tensor) -> Tensor:
        """(N,) the last token of each prefix, −1 where there is none."""
        return input_ids[:, -1] if input_ids.shape[1] > 1 else torch.full_like(input_ids[:, 0], -1)
