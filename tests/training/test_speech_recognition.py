"""SpeechTrainer: two masked views of an utterance, label smoothing of CTC, which models have them."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from seqdyconv.data.speech_batches import AugmentationArguments, SpeechCollator
from seqdyconv.models import SeqDyConvForCTC, SeqDyConvForSpeechSeq2Seq, SeqDyConvSpeechConfig
from seqdyconv.speech import SeqDyConvFeatureExtractor, train_character_tokenizer
from seqdyconv.speech.augmentation import SpecAugment
from seqdyconv.speech.recogniser import Recogniser
from seqdyconv.training.consistency import cr_ctc_loss
from seqdyconv.training.speech_models import ModelArguments
from seqdyconv.training.speech_recognition import SpeechTrainer, SpeechTrainingArguments, check_settings

LENGTHS = (4000, 9000, 6000, 5000)
TEXTS = ("ab", "bcad", "", "ca")
MASKS = SpecAugment(num_time_masks=2, time_mask_width=8, frequency_mask_width=4)


class Recordings(Dataset):
    """Utterances of noise, as seqdyconv.data.speech_batches.Utterances has them."""

    def __init__(self, labels):
        self.labels = labels
        self.samples = self
        self.lengths = torch.tensor(LENGTHS).numpy()

    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, index):
        index, epoch = index if isinstance(index, tuple) else (index, None)
        samples = torch.randn(LENGTHS[index], generator=torch.Generator().manual_seed(index))
        generator = None if epoch is None else torch.Generator().manual_seed(100 * epoch + index)
        return {"samples": samples, "labels": torch.tensor(self.labels[index]), "epoch": epoch, "generator": generator}


def make_recogniser(kind=SeqDyConvForCTC, **options):
    tokenizer = train_character_tokenizer(["abcd"], add_eos=kind is SeqDyConvForSpeechSeq2Seq)
    torch.manual_seed(0)
    config = SeqDyConvSpeechConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=16,
        num_mel_bins=20,
        subsampling_channels=4,
        encoder_kernel_sizes=[3, 5],
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_kernel_sizes=[3],
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        is_encoder_decoder=kind is SeqDyConvForSpeechSeq2Seq,
        **{"dropout": 0.0, **options},
    )
    return Recogniser(kind(config), SeqDyConvFeatureExtractor(feature_size=20), tokenizer)


def make_trainer(folder, recogniser=None, spec_augment=MASKS, texts=TEXTS, **options):
    recogniser = recogniser or make_recogniser()
    defaults = {"max_steps": 1, "report_to": "none", "save_strategy": "no", "eval_strategy": "no", "use_cpu": True}
    defaults |= {"disable_tqdm": True, "logging_steps": 1, "lr_scheduler_type": "constant", "warmup_steps": 0}
    args = SpeechTrainingArguments(output_dir=str(folder), **{**defaults, **options})
    data = Recordings(recogniser.labels(texts))
    return SpeechTrainer(recogniser=recogniser, spec_augment=spec_augment, args=args, train_dataset=data)


def batch_of(trainer, epoch=1):
    return trainer.data_collator([trainer.train_dataset[index, epoch] for index in range(len(LENGTHS))])


class TestViews:
    def test_are_two_maskings_of_one_warped_utterance(self):
        extractor = SeqDyConvFeatureExtractor(feature_size=20)
        rows = Recordings([[5]] * len(LENGTHS))
        warped = SpeechCollator(extractor, SpecAugment(num_time_masks=0, num_frequency_masks=0, time_warp=5))
        expected = warped([rows[index, 1] for index in range(4)])["input_features"]
        augment = SpecAugment(3, 6, num_frequency_masks=1, frequency_mask_width=4, time_warp=5)
        batch = SpeechCollator(extractor, augment, two_views=True)([rows[index, 1] for index in range(4)])
        views = batch["input_features"], batch["other_features"]
        padding = (batch["attention_mask"] == 0)[..., None].expand_as(expected)
        for view in views:
            assert view.shape == expected.shape and 0.3 < (view == expected).float().mean() < 1
            assert (view[padding] == expected[padding]).all()
        assert not torch.equal(*views)
        # Without a generator, as in evaluation, there is one view; and it is the first one of two.
        plain = SpeechCollator(extractor, augment, two_views=True)([rows[index] for index in range(4)])
        assert "other_features" not in plain
        one = SpeechCollator(extractor, augment)([rows[index, 1] for index in range(4)])
        assert torch.equal(one["input_features"], batch["input_features"]) and one.keys() == plain.keys()

    def test_what_one_view_hides_is_as_ever(self):
        extractor = SeqDyConvFeatureExtractor(feature_size=20)
        row = Recordings([[5]] * len(LENGTHS))
        augment = SpecAugment(time_warp=5)
        whole = SpeechCollator(extractor)([row[1]])["input_features"]
        expected = augment(whole, None, row[1, 3]["generator"])
        assert torch.equal(SpeechCollator(extractor, augment)([row[1, 3]])["input_features"], expected)

    def test_time_masks_grow_epoch_by_epoch(self, tmp_path):
        masks = SpecAugment(num_time_masks=1, time_mask_width=20, time_mask_ratio=1.0, num_frequency_masks=0)
        growing = make_trainer(tmp_path, spec_augment=masks, time_mask_growth=4).data_collator
        at_once = make_trainer(tmp_path, spec_augment=masks).data_collator
        rows = Recordings([[5]] * len(LENGTHS))
        plain = growing([rows[1]])["input_features"]
        widest = []
        for epoch in range(6):
            many = [{**rows[1, epoch], "generator": torch.Generator().manual_seed(seed)} for seed in range(300)]
            hidden = (growing(many)["input_features"] != plain).any(2).sum(1)
            widest.append(int(hidden.max()))
        assert widest == [0, 5, 10, 15, 20, 20]
        one, other = (collate([rows[1, 4]])["input_features"] for collate in (growing, at_once))
        assert torch.equal(one, other)


class TestLosses:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_cr_ctc_is_the_mean_of_two_losses_and_how_far_they_are_apart(self, tmp_path, smoothing):
        trainer = make_trainer(tmp_path, cr_ctc_alpha=0.2, label_smoothing_factor=smoothing)
        assert trainer.data_collator.spec_augment.num_time_masks == 5
        batch = batch_of(trainer)
        labels = sum(map(len, TEXTS))
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=7)
        expected, log_probs = 0.0, []
        for name in ("input_features", "other_features"):
            outputs = trainer.model(batch[name], batch["attention_mask"], labels=batch["labels"])
            frames = [-(-(length // 160 - 2) // 4) for length in LENGTHS]
            assert trainer.model.output_lengths(batch["attention_mask"]).tolist() == frames
            log_probs.append([row[:length].log_softmax(-1) for row, length in zip(outputs.logits, frames)])
            sure = sum((row.exp() * (row + torch.tensor(row.shape[1]).log())).sum() for row in log_probs[-1])
            expected += ((1 - smoothing) * labels * outputs.loss + smoothing * sure) / 2
        for one, other in zip(*log_probs):
            there, back = (other.exp() * (other - one)).sum(), (one.exp() * (one - other)).sum()
            expected += 0.2 * (there + back) / 2
        torch.testing.assert_close(loss, expected / 7)
        assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(expected.item() / labels)

    def test_beside_a_decoder_both_views_are_decoded_and_ctc_alone_agrees(self, tmp_path):
        model = {"ctc_weight": 0.3, "intermediate_ctc_layers": [1]}
        trainer = make_trainer(tmp_path, make_recogniser(SeqDyConvForSpeechSeq2Seq, **model), cr_ctc_alpha=0.2)
        batch = batch_of(trainer)
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=7)
        lengths = trainer.model.output_lengths(batch["attention_mask"])
        expected, logits = 0.0, []
        for name in ("input_features", "other_features"):
            inputs = {"attention_mask": batch["attention_mask"], "labels": batch["labels"], "num_items_in_batch": 7}
            outputs = trainer.model(batch[name], **inputs)
            expected += outputs.loss / 2
            logits.append(trainer.model.ctc_head(outputs.encoder_last_hidden_state))
        expected += 0.3 * 0.2 * cr_ctc_loss(*logits, lengths) / 7
        torch.testing.assert_close(loss, expected)

    def test_equal_views_have_the_loss_and_gradient_of_one(self, tmp_path):
        plain, two = make_trainer(tmp_path), make_trainer(tmp_path, cr_ctc_alpha=0.2)
        batch = batch_of(plain)
        gradients = []
        for trainer, inputs in ((plain, batch), (two, {**batch, "other_features": batch["input_features"]})):
            loss = trainer.compute_loss(trainer.model, inputs)
            gradients.append((loss, *torch.autograd.grad(loss, list(trainer.model.parameters()))))
        torch.testing.assert_close(gradients[0], gradients[1])

    def test_evaluation_has_neither(self, tmp_path):
        losses = [
            make_trainer(tmp_path, **options).recognise(Recordings([[5], [6], [7], [5, 6]]))[1]
            for options in ({}, {"cr_ctc_alpha": 0.2, "label_smoothing_factor": 0.1})
        ]
        assert losses[0] == losses[1]

    @pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
    def test_a_resumed_run_ends_with_the_same_weights(self, tmp_path, bf16):
        options = {"cr_ctc_alpha": 0.2, "label_smoothing_factor": 0.1, "save_strategy": "steps", "save_steps": 2}
        options |= {"max_steps": 4, "max_batch_seconds": 1, "learning_rate": 1e-2, "bf16": bf16, "texts": ["ab"] * 4}
        model = {"dropout": 0.2, "encoder_layerdrop": 0.3}
        trainer = make_trainer(tmp_path, make_recogniser(**model), **options)
        trainer.train()
        expected = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        torch.manual_seed(99)
        resumed = make_trainer(tmp_path, make_recogniser(**model), **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        assert all(torch.equal(one, other) for one, other in zip(resumed.model.parameters(), expected))
        assert all(parameter.isfinite().all() for parameter in expected)

    def test_pretrained_models_are_smoothed_too(self, tmp_path):
        config = Wav2Vec2Config(
            vocab_size=9,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            conv_dim=(8, 8),
            conv_stride=(20, 16),
            conv_kernel=(20, 16),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            feat_extract_norm="layer",
            mask_time_prob=0.0,
        )
        recogniser = make_recogniser()
        extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
        recogniser = Recogniser(Wav2Vec2ForCTC(config).eval(), extractor, recogniser.tokenizer)
        trainer = make_trainer(tmp_path, recogniser, label_smoothing_factor=0.1)
        batch = batch_of(trainer)
        plain = make_trainer(tmp_path, recogniser).compute_loss(trainer.model, dict(batch), num_items_in_batch=1)
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=1)
        logits = trainer.model(**batch).logits
        lengths = recogniser.output_lengths(batch, logits.shape[1])
        uniform = torch.tensor(1 / 9).log().expand(9)
        rows = [F.kl_div(uniform, frame.log_softmax(-1), reduction="sum", log_target=True)
                for row, length in zip(logits, lengths) for frame in row[:length]]  # fmt: skip
        torch.testing.assert_close(loss, 0.9 * plain + 0.1 * sum(rows))


class TestArguments:
    @pytest.mark.parametrize(
        ("kind", "spec_augment", "options", "said"),
        [
            (SeqDyConvForSpeechSeq2Seq, MASKS, {"label_smoothing_factor": 0.1}, "label_smoothing_factor is for CTC"),
            (SeqDyConvForCTC, MASKS, {"max_label_length": 9}, "max_label_length is for models with a decoder"),
            (SeqDyConvForCTC, None, {"cr_ctc_alpha": 0.2}, "cr_ctc_alpha needs masks"),
            (SeqDyConvForCTC, SpecAugment(0, 0, 0, 0, 0, 5), {"cr_ctc_alpha": 0.2}, "cr_ctc_alpha needs masks"),
        ],
    )
    def test_what_a_model_has_no_use_for(self, tmp_path, kind, spec_augment, options, said):
        with pytest.raises(ValueError, match=said):
            make_trainer(tmp_path, make_recogniser(kind), spec_augment, **options)
        args = SpeechTrainingArguments(output_dir=str(tmp_path), **options)
        masks = AugmentationArguments(
            **({} if spec_augment is MASKS else dict.fromkeys(("num_time_masks", "num_frequency_masks"), 0))
        )
        with pytest.raises(ValueError, match=said):
            check_settings(args, ModelArguments(head="ctc" if kind is SeqDyConvForCTC else "seq2seq"), masks)

    def test_pretrained_models_are_asked_before_they_are_loaded(self, tmp_path):
        Wav2Vec2Config().save_pretrained(tmp_path)
        model_args = ModelArguments(model_name_or_path=str(tmp_path))
        smoothed = SpeechTrainingArguments(output_dir="x", label_smoothing_factor=0.1)
        check_settings(smoothed, model_args, AugmentationArguments())
        with pytest.raises(ValueError, match="cr_ctc_alpha is for models with features of this package"):
            two_views = SpeechTrainingArguments(output_dir="x", cr_ctc_alpha=0.2)
            check_settings(two_views, model_args, AugmentationArguments())

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"cr_ctc_alpha": -1.0}, "cr_ctc_alpha must be at least 0"),
            ({"time_mask_growth": -1}, "time_mask_growth must be at least 0, got -1"),
            ({"cr_ctc_time_masks": 0.0}, r"cr_ctc_time_masks must be in \(0, 10\], got 0.0"),
            ({"label_smoothing_factor": 1.0}, r"label_smoothing_factor must be in \[0, 1\), got 1.0"),
        ],
    )
    def test_bad_values(self, options, said):
        with pytest.raises(ValueError, match=said):
            SpeechTrainingArguments(output_dir="x", **options)
