"""The speech models: what padding, losses, saving and exporting promise."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, AutoModelForCTC, AutoModelForSpeechSeq2Seq, Trainer, TrainingArguments
from transformers.modeling_outputs import BaseModelOutput

from seqdyconv.models import (
    SeqDyConvForCTC,
    SeqDyConvForSpeechSeq2Seq,
    SeqDyConvSpeechConfig,
    SeqDyConvSpeechModel,
    ctc_loss,
)

BLANK, EOS, BINS = 1, 2, 10
SMALL = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_mel_bins": BINS,
    "subsampling_channels": 3,
    "encoder_kernel_sizes": [3, 7, 31],
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "conformer_kernel_size": 9,
    "decoder_kernel_sizes": [3, 7],
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 32,
}
CONFIGS = {
    "dynamic": {},
    "pre-norm, mixed kernels, intermediate": {
        "encoder_layer_types": "lightweight_conv",
        "encoder_normalize_before": True,
        "encoder_position_type": "none",
        "subsampling_kernels": 3,
        "intermediate_ctc_layers": [1, 2],
    },
    "conformer": {
        "encoder_block": "conformer",
        "encoder_layer_types": ["self_attention", "dynamic_conv", "parallel"],
        "encoder_position_type": "learned",
        "intermediate_ctc_layers": [2],
    },
    "streaming": {"encoder_lookahead": 2, "encoder_position_type": "none", "subsampling_kernels": 3},
    "streaming conformer": {"encoder_lookahead": 4, "encoder_position_type": "none", "encoder_block": "conformer"},
}
HEADS = {
    SeqDyConvSpeechModel: AutoModel,
    SeqDyConvForCTC: AutoModelForCTC,
    SeqDyConvForSpeechSeq2Seq: AutoModelForSpeechSeq2Seq,
}
every_config = pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS.keys())
every_model = pytest.mark.parametrize("kind", HEADS, ids=lambda kind: kind.__name__)


def build(kind=SeqDyConvForCTC, dtype: torch.dtype = torch.float64, **options):
    """A small model whose weights are large enough to make every part count."""
    torch.manual_seed(0)
    decoder = {"is_encoder_decoder": kind is SeqDyConvForSpeechSeq2Seq}
    model = kind(SeqDyConvSpeechConfig(**(SMALL | decoder | options))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return model.to(dtype)


def utterances(*lengths: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, BINS, generator=generator, dtype=dtype) for length in lengths]


def pad(rows: list[torch.Tensor], side: str = "right", extra: int = 0, filler: float = 0.0):
    """Frames and attention mask of a batch."""
    longest = max(map(len, rows)) + extra
    features = torch.full((len(rows), longest, BINS), filler, dtype=rows[0].dtype)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        features[index, where], mask[index, where] = row, 1
    return features, mask


def padded_labels(*rows: list[int]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [-100] * (longest - len(row)) for row in rows])


LABELS = padded_labels([5, 6, 6, EOS], [7, EOS])


class TestPadding:
    @every_config
    @pytest.mark.parametrize(("side", "extra"), [("right", 0), ("right", 7), ("left", 3)])
    def test_the_logits_of_an_utterance_do_not_depend_on_padding_or_batch_mates(self, options, side, extra):
        model, rows = build(**options), utterances(70, 33, 4, 1)
        features, mask = pad(rows, side, extra, filler=math.nan)
        logits, lengths = model(features, mask).logits, model.output_lengths(mask)
        assert lengths.tolist() == [18, 9, 1, 1]
        for index, row in enumerate(rows):
            alone = model(row[None]).logits[0]
            assert len(alone) == lengths[index]
            torch.testing.assert_close(logits[index, : lengths[index]], alone, rtol=0, atol=1e-10)

    @every_config
    def test_the_loss_of_a_batch_is_that_of_each_utterance(self, options):
        model, rows = build(**options), utterances(70, 33)
        labels = padded_labels([5, 6, 6, 9], [7, 8])
        features, mask = pad(rows, extra=5, filler=math.nan)
        loss = model(features, mask, labels=labels, num_items_in_batch=6).loss
        alone = [
            model(rows[0][None], labels=labels[:1], num_items_in_batch=6).loss,
            model(rows[1][None], labels=labels[1:], num_items_in_batch=6).loss,
        ]
        torch.testing.assert_close(loss, sum(alone))
        torch.testing.assert_close(loss, model(features, mask, labels=labels).loss)

    @every_config
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_the_decoder_sees_each_utterance_as_if_alone(self, options, side):
        model, rows = build(SeqDyConvForSpeechSeq2Seq, **options), utterances(70, 33, 1)
        features, mask = pad(rows, side, extra=6, filler=math.nan)
        target = torch.tensor([[2, 5, 6], [2, 7, 8], [2, 9, 9]])
        logits = model(features, mask, decoder_input_ids=target).logits
        for index, row in enumerate(rows):
            alone = model(row[None], decoder_input_ids=target[index][None]).logits[0]
            torch.testing.assert_close(logits[index], alone, rtol=0, atol=1e-10)

    @every_config
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
    def test_an_utterance_of_nothing_but_padding_gives_finite_numbers(self, options, dtype):
        model = build(SeqDyConvForSpeechSeq2Seq, dtype, **options)
        features, mask = pad(utterances(40, 40, dtype=dtype))
        mask[1] = 0
        output = model(features, mask, labels=LABELS)
        assert output.logits.dtype == dtype and output.logits.isfinite().all()
        output.loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    def test_a_batch_of_no_utterances_has_no_logits(self):
        frames, mask = torch.zeros(0, 30, BINS, dtype=torch.float64), torch.ones(0, 30, dtype=torch.long)
        assert build()(frames, mask).logits.shape == (0, 8, 20)

    def test_a_causal_model_does_not_see_the_future(self):
        model, features = build(encoder_lookahead=0, encoder_position_type="none"), utterances(60)[0][None]
        changed = features.clone()
        changed[:, 41:] += 1
        torch.testing.assert_close(model(changed).logits[:, :11], model(features).logits[:, :11])
        assert not torch.allclose(model(changed).logits[:, 11], model(features).logits[:, 11])


class TestCTCLoss:
    logits = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_probs = logits.log_softmax(-1)

    def loss(self, row: int, labels: list[int], **options) -> float:
        return ctc_loss(
            self.logits[row : row + 1], torch.tensor([labels]).long().view(1, -1), blank=0, **options
        ).item()

    def test_is_minus_the_log_likelihood_divided_by_the_labels(self):
        labels = padded_labels([1, 2], [3, 3, 1], [4])
        expected = [self.loss(row, labels[row][labels[row] != -100].tolist(), num_items_in_batch=1) for row in range(3)]
        assert ctc_loss(self.logits, labels, blank=0).item() == pytest.approx(sum(expected) / 6)
        assert ctc_loss(self.logits, labels, blank=0, num_items_in_batch=12).item() == pytest.approx(sum(expected) / 12)

    def test_where_labels_stand_does_not_matter(self):
        spread = torch.tensor([[-100, 1, -100, 2]])
        assert ctc_loss(self.logits[:1], spread, blank=0).item() == self.loss(0, [1, 2])

    def test_without_labels_all_steps_are_taught_to_be_blank(self):
        assert self.loss(0, []) == pytest.approx(-self.log_probs[0, :, 0].sum().item())
        assert self.loss(0, [-100, -100]) == self.loss(0, [])

    def test_an_utterance_that_is_too_short_has_no_loss_and_no_gradient_but_its_labels_count(self):
        logits = self.logits[:2].clone().requires_grad_()
        # Five labels fit into six steps, but each of the repetitions needs a blank between.
        loss = ctc_loss(logits, padded_labels([1, 1, 1, 1, 1], [2]), blank=0)
        assert loss.item() == pytest.approx(self.loss(1, [2]) / 6)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient[0].eq(0).all() and gradient[1].ne(0).any()

    def test_steps_after_the_end_do_not_count(self):
        shorter = ctc_loss(self.logits[:1, :4], torch.tensor([[1, 2]]), blank=0)
        assert self.loss(0, [1, 2], lengths=torch.tensor([4])) == pytest.approx(shorter.item())

    def test_half_precision_is_computed_in_float32(self):
        loss = ctc_loss(self.logits.bfloat16(), padded_labels([1], [2], [3]), blank=0)
        assert loss.dtype == torch.float32

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (torch.tensor([[1], [5], [2]]), r"labels must be in \[0, 5\) but not the blank 0.* got \[1, 2, 5\]"),
            (torch.tensor([[1], [0], [2]]), "but not the blank 0"),
            (torch.tensor([[1], [-1], [2]]), r"got \[-1, 1, 2\]"),
            (torch.tensor([[1], [1]]), r"labels must be \(B, L\) with B = 3, got \(2, 1\)"),
            (torch.tensor([1, 2, 3]), r"labels must be \(B, L\) with B = 3, got \(3,\)"),
        ],
        ids=["beyond the vocabulary", "blank", "negative", "batch", "1-D"],
    )
    def test_labels_that_do_not_fit_are_refused(self, labels, message):
        with pytest.raises(ValueError, match=message):
            ctc_loss(self.logits, labels, blank=0)

    def test_inner_layers_share_the_output_layer_and_the_loss(self):
        model = build(intermediate_ctc_layers=[1, 2], intermediate_ctc_weight=0.25, encoder_normalize_before=True)
        features, mask = pad(utterances(70, 33))
        labels = padded_labels([5, 6], [7])
        output = model(features, mask, labels=labels, output_hidden_states=True)
        lengths = model.output_lengths(mask)
        inner = [
            ctc_loss(
                model.ctc_head(model.encoder.norm(output.hidden_states[layer])), labels, blank=BLANK, lengths=lengths
            )
            for layer in (1, 2)
        ]
        final = ctc_loss(output.logits, labels, blank=BLANK, lengths=lengths)
        torch.testing.assert_close(output.loss, 0.75 * final + 0.25 * sum(inner) / 2)


class TestJointLoss:
    @pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
    def test_is_a_mixture_of_ctc_and_cross_entropy(self, weight):
        model = build(SeqDyConvForSpeechSeq2Seq, ctc_weight=weight)
        features, mask = pad(utterances(70, 33))
        output = model(features, mask, labels=LABELS)
        chosen = output.logits.log_softmax(-1).gather(2, LABELS.clamp(min=0)[..., None])[..., 0][LABELS != -100]
        # CTC hears no end of the sentence.
        spoken = padded_labels([5, 6, 6], [7])
        ctc = ctc_loss(
            model.ctc_head(output.encoder_last_hidden_state), spoken, blank=BLANK, lengths=model.output_lengths(mask)
        )
        torch.testing.assert_close(output.loss, weight * ctc - (1 - weight) * chosen.mean())

    def test_label_smoothing_is_an_option(self):
        features, mask = pad(utterances(70, 33))
        plain, smooth = (
            build(SeqDyConvForSpeechSeq2Seq, ctc_weight=0.0, label_smoothing=epsilon)(features, mask, labels=LABELS)
            for epsilon in (0.0, 0.1)
        )
        uniform = -plain.logits.log_softmax(-1)[LABELS != -100].mean()
        torch.testing.assert_close(smooth.loss, 0.9 * plain.loss + 0.1 * uniform)

    def test_the_ctc_model_is_part_of_it(self, tmp_path):
        joint = build(SeqDyConvForSpeechSeq2Seq)
        joint.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="that of a model with a decoder"):
            AutoModelForCTC.from_pretrained(tmp_path)
        ctc, info = SeqDyConvForCTC.from_pretrained(tmp_path, is_encoder_decoder=False, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        features, mask = pad(utterances(70, 33))
        hidden = joint(features, mask, labels=LABELS).encoder_last_hidden_state
        assert ctc(features, mask).logits[0].equal(joint.ctc_head(hidden)[0])  # the second has padded steps


class TestTraining:
    @every_config
    @pytest.mark.parametrize("kind", [SeqDyConvForCTC, SeqDyConvForSpeechSeq2Seq])
    def test_every_parameter_gets_the_same_gradient_with_activation_checkpointing(self, kind, options):
        features, mask = pad(utterances(70, 33))
        gradients = []
        for checkpointing in (False, True):
            model = build(kind, **options, dropout=0.0).train()
            if checkpointing:
                model.activation_checkpointing_enable()
            model(features, mask, labels=LABELS).loss.backward()
            gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        assert all(gradient is not None for gradient in gradients[0].values())
        torch.testing.assert_close(gradients[0], gradients[1])

    def test_layers_are_left_out_by_each_utterance_for_itself(self):
        features = utterances(70)[0][None].expand(1000, -1, -1)
        model = build(encoder_layerdrop=0.3, encoder_kernel_sizes=[3], dropout=0.0)
        whole = model(features[:1]).logits[0]
        none = build(encoder_layerdrop=0.999999, encoder_kernel_sizes=[3], dropout=0.0).train()(features[:1]).logits[0]
        torch.manual_seed(0)
        logits = model.train()(features).logits
        kept, left_out = (((logits - one).abs().amax((1, 2)) < 1e-9) for one in (whole, none))
        assert (kept ^ left_out).all() and 0.26 < left_out.float().mean() < 0.34
        torch.manual_seed(0)
        assert model(features).logits.equal(logits)
        torch.testing.assert_close(model.eval()(features[:1]).logits[0], whole)

    @pytest.mark.parametrize("block", ["transformer", "conformer"])
    def test_each_weight_has_a_gradient_whichever_layers_are_left_out(self, block):
        features, mask = pad(utterances(70, 33))
        model = build(encoder_layerdrop=0.999999, encoder_block=block, intermediate_ctc_layers=[1]).train()
        model(features, mask, labels=LABELS).loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert all(gradient is not None for gradient in gradients.values())
        assert all((gradient == 0).all() == ("layers" in name) for name, gradient in gradients.items())

    @every_config
    def test_autocast_to_bfloat16(self, options):
        model = build(SeqDyConvForSpeechSeq2Seq, torch.float32, **options)
        features, mask = pad(utterances(70, 33, dtype=torch.float32))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(features, mask, labels=LABELS)
        assert output.loss.dtype == torch.float32
        assert output.loss.item() == pytest.approx(model(features, mask, labels=LABELS).loss.item(), rel=0.1)

    @pytest.mark.parametrize("options", [{}, CONFIGS["streaming conformer"]], ids=["dynamic", "streaming conformer"])
    @pytest.mark.parametrize("kind", [SeqDyConvForCTC, SeqDyConvForSpeechSeq2Seq])
    def test_two_utterances_are_learnt(self, kind, options):
        torch.manual_seed(0)
        decoder = {"is_encoder_decoder": kind is SeqDyConvForSpeechSeq2Seq}
        model = kind(SeqDyConvSpeechConfig(**SMALL, **decoder, **options, dropout=0.0))
        features, mask = pad(utterances(70, 33, dtype=torch.float32))
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        losses = []
        for _ in range(25):
            loss = model(features, mask, labels=LABELS).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]

    def test_the_trainer_accumulates_as_one_batch(self, tmp_path):
        rows, labels = utterances(70, 33, 50, 41, dtype=torch.float32), [[5, 6], [7], [8, 9, 3], [4]]
        data = [{"row": row, "labels": row_labels} for row, row_labels in zip(rows, labels)]

        def collate(examples):
            features, mask = pad([example["row"] for example in examples])
            return {
                "input_features": features,
                "attention_mask": mask,
                "labels": padded_labels(*(example["labels"] for example in examples)),
            }

        results = []
        for size, steps in ((4, 1), (1, 4)):
            model = build(dtype=torch.float32, dropout=0.0)
            arguments = TrainingArguments(
                str(tmp_path),
                max_steps=1,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=steps,
                optim="sgd",
                learning_rate=1e-2,
                use_cpu=True,
                remove_unused_columns=False,
                save_strategy="no",
                disable_tqdm=True,
                max_grad_norm=0.0,
                train_sampling_strategy="sequential",
            )
            Trainer(model, arguments, train_dataset=data, data_collator=collate).train()
            results.append(dict(model.named_parameters()))
        torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)

    def test_hidden_states_are_those_of_each_layer(self):
        output = build(**CONFIGS["conformer"])(*pad(utterances(70)), output_hidden_states=True)
        assert [tuple(hidden.shape) for hidden in output.hidden_states] == [(1, 18, 16)] * 4

    @pytest.mark.parametrize("kernels", [1, 3])
    def test_new_weights_are_of_a_usual_size(self, kernels):
        torch.manual_seed(0)
        options = {"encoder_block": "conformer", "num_mel_bins": 80, "subsampling_kernels": kernels}
        model = SeqDyConvForCTC(SeqDyConvSpeechConfig(**(SMALL | options))).eval()
        hidden = model.encoder(torch.randn(2, 100, 80), output_hidden_states=True).hidden_states
        assert 0.05 < hidden[0].std().item() < 2
        assert 0.5 < hidden[-1].std().item() < 2


class TestSaving:
    @every_config
    @every_model
    def test_the_auto_class_loads_what_was_saved(self, kind, options, tmp_path):
        model = build(kind, **options)
        features, mask = pad(utterances(70, 33))
        target = {} if kind is not SeqDyConvForSpeechSeq2Seq else {"decoder_input_ids": LABELS.clamp(min=2)}
        model.save_pretrained(tmp_path)
        loaded, info = HEADS[kind].from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
        # Products may depend in their last bit on where in memory the weights are.
        torch.testing.assert_close(loaded(features, mask, **target)[0], model(features, mask, **target)[0])

    def test_a_new_head_starts_as_one_of_a_new_model(self, tmp_path):
        build(SeqDyConvSpeechModel, torch.float32).save_pretrained(tmp_path)
        loaded, info = SeqDyConvForCTC.from_pretrained(tmp_path, output_loading_info=True)
        assert sorted(info["missing_keys"]) == ["ctc_head.bias", "ctc_head.weight"]
        assert loaded.ctc_head.bias.eq(0).all() and 0.1 < loaded.ctc_head.weight.std() < 0.5


class TestConfig:
    def test_it_survives_saving(self, tmp_path):
        config = SeqDyConvSpeechConfig(**SMALL, **CONFIGS["conformer"])
        config.save_pretrained(tmp_path)
        loaded = AutoConfig.from_pretrained(tmp_path)
        assert isinstance(loaded, SeqDyConvSpeechConfig)
        assert loaded.to_diff_dict() == config.to_diff_dict()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"encoder_block": "lstm"}, "encoder_block must be of transformer, conformer, got 'lstm'"),
            ({"num_mel_bins": 0}, "num_mel_bins must be >= 1, got 0"),
            ({"ctc_weight": 1.5}, r"ctc_weight must be in \[0, 1\], got 1.5"),
            ({"encoder_layerdrop": 1.0}, r"encoder_layerdrop must be in \[0, 1\), got 1.0"),
            ({"pad_token_id": None}, r"pad_token_id is the blank of CTC, it must be in \[0, 32000\), got None"),
            ({"pad_token_id": 32000}, "pad_token_id is the blank of CTC"),
            ({"intermediate_ctc_layers": [0, 7]}, r"must be from 1 to 6, before the last layer, got \[0, 7\]"),
            ({"share_encoder_decoder_embeddings": True}, "a speech encoder has no tokens"),
            ({"encoder_lookahead": -1, "encoder_position_type": "none"}, "must be None or >= 0, got -1"),
            ({"encoder_lookahead": 0}, "encoder_lookahead needs encoder_position_type=\"none\".* got 'sinusoidal'"),
            (
                {"encoder_lookahead": 0, "encoder_position_type": "none", "encoder_layer_types": "self_attention"},
                "layers that stream in constant memory.* of .*dynamic_conv, .*got self_attention",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(self, options, message):
        with pytest.raises(StrictDataclassError, match=message):
            SeqDyConvSpeechConfig(**options)


class TestErrors:
    def test_a_mask_of_another_shape_is_refused(self):
        features, mask = pad(utterances(9))
        with pytest.raises(ValueError, match=r"attention_mask must be \(B, T\) = \(1, 9\), got \(1, 8\)"):
            build()(features, mask[:, 1:])

    def test_frames_of_another_width_are_refused(self):
        with pytest.raises(ValueError, match=r"input must be .*C = 10, got \(1, 9, 8\)"):
            build()(torch.zeros(1, 9, 8).double())

    def test_no_frames_or_no_target_is_refused(self):
        model = build(SeqDyConvForSpeechSeq2Seq)
        with pytest.raises(ValueError, match="needs decoder_input_ids or labels"):
            model(utterances(9)[0][None])
        with pytest.raises(ValueError, match="needs input_features or encoder_outputs"):
            model(decoder_input_ids=torch.tensor([[2]]))

    @pytest.mark.parametrize("name", ["cu_seqlens", "position_ids"])
    def test_packed_utterances_are_refused(self, name):
        with pytest.raises(ValueError, match=f"takes each utterance in a row of its own: got {name}"):
            build()(torch.stack(utterances(30)), **{name: torch.tensor([0, 12, 30])})

    @pytest.mark.parametrize("run", ["forward", "generate"])
    def test_an_output_that_does_not_tell_which_steps_are_real_is_refused(self, run):
        model = build(SeqDyConvForSpeechSeq2Seq, is_encoder_decoder=True)
        encoded = BaseModelOutput(last_hidden_state=torch.zeros(1, 5, 16, dtype=torch.float64))
        with pytest.raises(ValueError, match="must be the SpeechEncoderOutput of the encoder, got BaseModelOutput"):
            getattr(model, run)(encoder_outputs=encoded, decoder_input_ids=torch.tensor([[2]]))

    def test_decoding_with_an_assistant_is_refused(self):
        model = build(SeqDyConvForSpeechSeq2Seq, is_encoder_decoder=True)
        with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
            model.generate(torch.stack(utterances(30)), prompt_lookup_num_tokens=2, max_new_tokens=2)

    def test_a_decoder_needs_a_configuration_that_has_one(self):
        with pytest.raises(ValueError, match="is_encoder_decoder=True, got False"):
            SeqDyConvForSpeechSeq2Seq(SeqDyConvSpeechConfig(**SMALL))

    def test_learned_positions_end(self):
        model = build(encoder_position_type="learned", max_position_embeddings=8)
        with pytest.raises(ValueError, match="max_position_embeddings = 8, got an utterance of 9 steps"):
            model(utterances(33)[0][None])


class TestPrograms:
    @pytest.mark.parametrize("kind", ["conformer", "streaming"])
    def test_the_encoder_compiles_into_one_graph(self, kind):
        torch._dynamo.reset()
        model = build(SeqDyConvSpeechModel, **CONFIGS[kind])
        features, mask = pad(utterances(70, 33))

        def encode(features, mask):
            return model(features, mask).last_hidden_state

        compiled = torch.compile(encode, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(features, mask), encode(features, mask))

    @pytest.mark.parametrize("kind", ["dynamic", "streaming conformer"])
    def test_the_encoder_exports_with_any_batch_and_length(self, kind):
        model = build(SeqDyConvSpeechModel, **CONFIGS[kind], encoder_kernel_sizes=[3])
        steps = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time", min=5)}
        program = torch.export.export(
            model, pad(utterances(40, 40)), dynamic_shapes={"input_features": steps, "attention_mask": steps}
        ).module()
        features, mask = pad(utterances(70, 33, 9))
        actual, expected = program(features, mask), model(features, mask)
        assert actual.attention_mask.equal(expected.attention_mask)
        real = expected.attention_mask
        torch.testing.assert_close(actual.last_hidden_state[real], expected.last_hidden_state[real])
