"""CTC prefix scores, and their use in ``generate()``."""

from itertools import groupby, product

import pytest
import torch
import torch.nn.functional as F
from transformers import GenerationConfig

from seqdyconv.models import CTCPrefixLogitsProcessor, CTCPrefixScorer, SeqDyConvForSpeechSeq2Seq, SeqDyConvSpeechConfig

BLANK, EOS = 1, 2


def log_probs(batch: int, steps: int, vocab_size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, steps, vocab_size, generator=generator, dtype=torch.float64).log_softmax(-1)


def collapse(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(token for token, _ in groupby(path) if token != blank)


def follow(scorer: CTCPrefixScorer, tokens: tuple[int, ...]):
    """Forward variables, log-probability and last token, of one prefix of the one utterance."""
    variables, score = scorer.empty_prefix()
    last = torch.tensor([-1])
    for token in tokens:
        variables, score = scorer.extend(variables, last, torch.tensor([token]))
        last = torch.tensor([token])
    return variables, score, last


PREFIXES = [(), (2,), (0,), (0, 2), (2, 2), (0, 2, 0), (2, 2, 2), (0, 0, 0, 0)]


class TestScorer:
    @pytest.mark.parametrize("prefix", PREFIXES, ids=str)
    def test_is_the_sum_over_all_alignments(self, prefix):
        table = log_probs(1, 5, 3)
        scorer = CTCPrefixScorer(table, BLANK)
        paths = {
            path: sum(table[0, t, token].item() for t, token in enumerate(path)) for path in product(range(3), repeat=5)
        }

        def total(matches) -> float:
            chosen = [score for path, score in paths.items() if matches(collapse(path, BLANK))]
            return torch.tensor(chosen, dtype=torch.float64).exp().sum().item()

        variables, score, last = follow(scorer, prefix)
        size = len(prefix)
        assert score.exp().item() == pytest.approx(total(lambda text: text[:size] == prefix))
        assert scorer.whole(variables).exp().item() == pytest.approx(total(lambda text: text == prefix))
        following = scorer.next_tokens(variables, last).exp()[0]
        for token in (0, 2):
            expected = total(lambda text, longer=(*prefix, token): text[: size + 1] == longer)
            assert following[token].item() == pytest.approx(expected)

    @pytest.mark.parametrize("steps", [1, 40, 600])
    def test_a_prefix_is_a_whole_transcript_or_goes_on(self, steps):
        """Also where probabilities are far below the smallest number."""
        scorer = CTCPrefixScorer((10 * log_probs(1, steps, 6)).log_softmax(-1), BLANK)
        for prefix in ((), (3,), (3, 3, 4) if steps > 4 else (5,)):
            variables, score, last = follow(scorer, prefix)
            following = scorer.next_tokens(variables, last)
            following[:, BLANK] = scorer.whole(variables)
            torch.testing.assert_close(following.logsumexp(1), score)

    def test_is_the_ctc_loss_of_whole_transcripts(self):
        table, target = log_probs(1, 200, 30), (5, 6, 6, 7, 29, 5)
        lengths = torch.tensor([200]), torch.tensor([6])
        expected = F.ctc_loss(table[0], torch.tensor([target]), *lengths, blank=BLANK, reduction="sum")
        variables, _, _ = follow(CTCPrefixScorer(table, BLANK), target)
        torch.testing.assert_close(CTCPrefixScorer(table, BLANK).whole(variables)[0], -expected)

    def test_padding_changes_nothing(self):
        table = log_probs(2, 9, 4)
        scorer, alone = CTCPrefixScorer(table, BLANK, torch.tensor([9, 6])), CTCPrefixScorer(table[1:, :6], BLANK)
        variables, score = scorer.empty_prefix()
        last = torch.tensor([-1, -1])
        for token in (3, 3):
            variables, score = scorer.extend(variables, last, torch.tensor([token, token]))
            last = torch.tensor([token, token])
        expected, expected_score, expected_last = follow(alone, (3, 3))
        torch.testing.assert_close(score[1:], expected_score)
        torch.testing.assert_close(scorer.whole(variables)[1:], alone.whole(expected))
        torch.testing.assert_close(scorer.next_tokens(variables, last)[1:], alone.next_tokens(expected, expected_last))


class TestProcessor:
    def build(self, weight: float = 0.4, beams: int = 2):
        return CTCPrefixLogitsProcessor(log_probs(2, 9, 6), BLANK, EOS, weight)

    def test_mixes_the_scores_of_both(self):
        processor, scores = self.build(0.25), torch.randn(2, 6, dtype=torch.float64)
        prefix = torch.tensor([[0, 4, 4], [0, 4, 5]])
        mixed = processor(prefix, scores)
        attention = scores.log_softmax(-1)
        for row in range(2):
            scorer = CTCPrefixScorer(log_probs(2, 9, 6)[row : row + 1], BLANK)
            variables, score, last = follow(scorer, tuple(prefix[row, 1:].tolist()))
            expected = scorer.next_tokens(variables, last)[0]
            expected[EOS] = scorer.whole(variables)[0]
            allowed = [0, 2, 3, 4, 5]
            torch.testing.assert_close(
                mixed[row, allowed], (0.75 * attention[row] + 0.25 * (expected - score))[allowed]
            )
            assert mixed[row, BLANK] < -1000

    def test_beams_may_change_places(self):
        """What a new processor makes of the same tokens is what counts, not which row they were in before."""
        processor, generator = self.build(), torch.Generator().manual_seed(0)
        prefix = torch.zeros(6, 1, dtype=torch.long)
        for _ in range(5):
            order = torch.cat([torch.randint(0, 3, (3,), generator=generator) + first for first in (0, 3)])
            tokens = torch.randint(3, 6, (6, 1), generator=generator)
            prefix = torch.cat([prefix[order], tokens], dim=1)
            scores = torch.randn(6, 6, generator=generator)
            torch.testing.assert_close(processor(prefix, scores), self.build()(prefix, scores))
        assert len(processor.known) <= 6  # nothing is kept of prefixes that were left

    def test_what_was_forbidden_stays_so_and_a_finished_sentence_stays_finite(self):
        processor = self.build(1.0)
        scores = torch.zeros(2, 6).index_fill(1, torch.tensor([3]), -torch.inf)
        for tokens in ([[0], [0]], [[0, 4], [0, EOS]], [[0, 4, 5], [0, EOS, BLANK]]):
            mixed = processor(torch.tensor(tokens), scores)
            assert mixed[:, 3].eq(-torch.inf).all()
            assert mixed[:, [0, 1, 2, 4, 5]].isfinite().all()

    def test_a_prefix_that_is_too_long_stays_finite(self):
        processor = CTCPrefixLogitsProcessor(log_probs(1, 2, 6), BLANK, EOS, 0.5)
        assert processor(torch.tensor([[0, 3, 4, 5, 3]]), torch.zeros(1, 6)).isfinite().all()

    @pytest.mark.parametrize("weight", [-0.1, 1.5])
    def test_a_weight_out_of_range_is_refused(self, weight):
        with pytest.raises(ValueError, match=r"ctc_weight must be in \[0, 1\], got"):
            self.build(weight)


SMALL = {
    "vocab_size": 12,
    "hidden_size": 16,
    "num_mel_bins": 10,
    "subsampling_channels": 3,
    "encoder_kernel_sizes": [3, 7],
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_kernel_sizes": [3, 7],
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 32,
    "is_encoder_decoder": True,
}


class TestGenerate:
    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        model = SeqDyConvForSpeechSeq2Seq(SeqDyConvSpeechConfig(**SMALL)).eval().double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.5 * torch.randn_like(parameter))
        return model

    features = torch.randn(3, 60, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = (torch.arange(60) < torch.tensor([[60], [41], [20]])).long()

    @pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"num_beams": 3, "use_cache": False}], ids=str)
    @pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
    def test_gives_each_utterance_of_a_batch_what_it_gives_it_alone(self, model, settings, weight):
        batch = model.generate(self.features, attention_mask=self.mask, ctc_weight=weight, **settings)
        for row, features, mask in zip(batch, self.features, self.mask):
            # As inputs or by name.
            alone = model.generate(
                input_features=features[None, : mask.sum()], ctc_weight=weight, max_new_tokens=15, **settings
            )[0]
            assert row[: len(alone)].tolist() == alone.tolist()
            assert set(row[len(alone) :].tolist()) <= {BLANK}

    def test_the_score_of_a_beam_is_the_weighted_sum_of_both_models(self, model):
        features = self.features[:1]
        output = model.generate(
            features,
            ctc_weight=0.3,
            num_beams=4,
            num_return_sequences=2,
            max_new_tokens=15,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        for sequence, score in zip(output.sequences, output.sequences_scores):
            tokens = sequence[1:][: (sequence[1:] != BLANK).sum()]
            assert tokens[-1] == EOS
            run = model(features, decoder_input_ids=sequence[None, : len(tokens)])
            attention = run.logits[0].log_softmax(-1).gather(1, tokens[:, None]).sum()
            ctc = model.ctc_head(run.encoder_last_hidden_state).log_softmax(-1)
            scorer = CTCPrefixScorer(ctc, BLANK)
            whole = scorer.whole(follow(scorer, tuple(tokens[:-1].tolist()))[0])[0]
            assert score.item() == pytest.approx((0.7 * attention + 0.3 * whole).item(), rel=1e-4)

    def test_the_weight_comes_from_the_call_or_the_generation_options_or_the_configuration(self, model):
        def tokens(**options):
            return model.generate(
                self.features, attention_mask=self.mask, num_beams=2, max_new_tokens=8, **options
            ).tolist()

        expected = {weight: tokens(ctc_weight=weight) for weight in (0.0, 0.9, 1.0)}
        assert len({str(one) for one in expected.values()}) > 1
        model.config.ctc_weight = 0.9
        assert tokens() == expected[0.9]
        model.generation_config.ctc_weight = 1.0
        assert tokens() == expected[1.0]
        assert tokens(generation_config=GenerationConfig(ctc_weight=0.9)) == expected[0.9]
        assert tokens(ctc_weight=0) == expected[0.0]
        with pytest.raises(ValueError, match=r"ctc_weight must be in \[0, 1\], got 2"):
            tokens(ctc_weight=2)

    def test_without_a_limit_there_are_at_most_as_many_tokens_as_steps(self, model):
        model.generation_config.eos_token_id = None
        assert model.generate(self.features, ctc_weight=0.0).shape == (3, 1 + 15)

    def test_sampling_and_no_input(self, model):
        torch.manual_seed(0)
        assert model.generate(self.features, do_sample=True, top_k=5, max_new_tokens=4, min_new_tokens=4).shape == (
            3,
            5,
        )
        with pytest.raises(ValueError, match="generate needs input_features or encoder_outputs, got neither"):
            model.generate()
