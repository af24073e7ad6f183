"""TokenBatchTrainer: the gradient of a mean over tokens, R-Drop, evaluation and generation on all processes."""

import faulthandler
import multiprocessing
import os
import socket
import time

import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DataCollatorForSeq2Seq,
    EarlyStoppingCallback,
    PreTrainedTokenizerFast,
    set_seed,
)

from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.training.consistency import rdrop_loss, simcut_loss, token_cutoff
from seqdyconv.training.decoding import generate, generate_batch
from seqdyconv.training.trainer import (
    TokenBatchTrainer,
    TokenBatchTrainingArguments,
    example_lengths,
    label_smoothed_loss,
)

VOCABULARY = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnop"]


def make_tokenizer():
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def make_model(dropout=0.0):
    set_seed(0)
    config = BartConfig(
        vocab_size=len(VOCABULARY),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        dropout=dropout,
        max_position_embeddings=64,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    return BartForConditionalGeneration(config)


def make_dataset(number=8, source_length=8, seed=0):
    """Sources of one length and targets of different ones, so that batches have equal sizes and unequal tokens."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(number):
        source = torch.randint(4, len(VOCABULARY), (source_length - 1,), generator=generator).tolist()
        rows.append({"input_ids": [*source, 2], "labels": [*source[: 1 + index % (source_length - 2)], 2]})
    return Dataset.from_list(rows)


def make_trainer(folder, dropout=0.0, eval_dataset=None, text_metrics=None, callbacks=None, **options):
    model = make_model(dropout)
    tokenizer = make_tokenizer()
    defaults = {"max_steps": 1, "lr_scheduler_type": "constant", "warmup_steps": 0, "report_to": "none"}
    defaults |= {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "max_tokens": 64}
    args = TokenBatchTrainingArguments(output_dir=str(folder), **{**defaults, **options})
    return TokenBatchTrainer(
        model=model,
        args=args,
        train_dataset=make_dataset(),
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        text_metrics=text_metrics,
        callbacks=callbacks,
    )


def weights_after_a_step(folder, **options):
    trainer = make_trainer(folder, optim="sgd", learning_rate=1.0, max_grad_norm=0, logging_steps=1, **options)
    trainer.train()
    loss = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]), loss, trainer


class TestLosses:
    def test_label_smoothing_is_a_mixture_with_the_uniform_distribution(self):
        logits, labels = torch.randn(2, 3, 7, dtype=torch.float64), torch.tensor([[1, 2, -100], [3, -100, -100]])
        log_p = logits.log_softmax(-1)
        expected = sum(
            -(0.9 * log_p[b, t, labels[b, t]] + 0.1 * log_p[b, t].mean()) for b, t in [(0, 0), (0, 1), (1, 0)]
        )
        torch.testing.assert_close(label_smoothed_loss(logits, labels, 0.1), expected)

    def test_the_loss_of_half_precision_is_float32(self):
        logits = torch.randn(2, 3, 7).bfloat16()
        loss = label_smoothed_loss(logits, torch.ones(2, 3, dtype=torch.long))
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, label_smoothed_loss(logits.float(), torch.ones(2, 3, dtype=torch.long)))


class TestTraining:
    @pytest.mark.parametrize("max_tokens, accumulation", [(32, 2), (16, 4), (8, 8), (24, 3)])
    def test_accumulated_batches_give_the_step_of_one_batch(self, tmp_path, max_tokens, accumulation):
        whole, loss, _ = weights_after_a_step(tmp_path, max_tokens=64)
        parts, other_loss, _ = weights_after_a_step(
            tmp_path, max_tokens=max_tokens, gradient_accumulation_steps=accumulation
        )
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
        assert other_loss == pytest.approx(loss, abs=1e-5)

    def test_two_processes_give_the_step_of_one(self, tmp_path):
        whole, loss, trainer = weights_after_a_step(tmp_path, max_tokens=64)
        dataset = make_dataset(5)
        trainer.eval_dataset = dataset
        expected_loss = trainer.evaluate()["eval_loss"]
        expected_texts = [beams[0].text for beams in trainer.generate(dataset["input_ids"][:], trainer.decoding)]
        multiprocessing.set_forkserver_preload([__name__])  # imports once for both processes
        processes = torch.multiprocessing.start_processes(
            step_of_one_process, (str(tmp_path), free_port()), nprocs=2, join=False, start_method="forkserver"
        )
        deadline = time.monotonic() + 90
        while not processes.join(timeout=5):
            if time.monotonic() > deadline:
                for process in processes.processes:
                    process.kill()
                pytest.fail("the two processes hang")
        for rank in range(2):
            found = torch.load(tmp_path / f"{rank}.pt")
            torch.testing.assert_close(found["weights"], whole, rtol=0, atol=1e-6)
            assert found["loss"] == pytest.approx(loss, abs=1e-5)
            assert found["eval_loss"] == pytest.approx(expected_loss, abs=1e-5)
            assert found["texts"] == expected_texts
            assert found["tokens"] == trainer.trained_items

    def test_rdrop_adds_the_divergence_of_two_passes(self, tmp_path):
        plain, plain_loss, _ = weights_after_a_step(tmp_path)
        same, same_loss, _ = weights_after_a_step(tmp_path, rdrop_alpha=5.0)
        assert same_loss == pytest.approx(plain_loss, abs=1e-6)  # No dropout: both passes are equal.
        torch.testing.assert_close(same, plain, rtol=0, atol=1e-6)

        trainer = make_trainer(tmp_path, dropout=0.5, rdrop_alpha=5.0, label_smoothing_factor=0.0)
        trainer.model.train()
        batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
        labels = batch["labels"]
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        torch.manual_seed(3)
        loss = trainer.compute_loss(trainer.model, dict(batch))
        torch.manual_seed(3)
        one, two = (trainer.model(**inputs).logits for _ in range(2))
        tokens = (labels != -100).sum()
        cross_entropy = (label_smoothed_loss(one, labels) + label_smoothed_loss(two, labels)) / 2
        torch.testing.assert_close(loss, (cross_entropy + 5 / 2 * rdrop_loss(one, two, labels)) / tokens)
        assert rdrop_loss(one, two, labels) > 0.01

    def test_simcut_adds_the_divergence_from_a_pass_with_hidden_tokens(self, tmp_path):
        plain, plain_loss, _ = weights_after_a_step(tmp_path)
        same, same_loss, _ = weights_after_a_step(tmp_path, simcut_alpha=3.0, simcut_p=0.0)
        assert same_loss == pytest.approx(plain_loss, abs=1e-6)  # No dropout, nothing hidden: both passes are equal.
        torch.testing.assert_close(same, plain, rtol=0, atol=1e-6)

        trainer = make_trainer(tmp_path, dropout=0.5, simcut_alpha=3.0, simcut_p=0.5, label_smoothing_factor=0.1)
        model = trainer.model.train()
        batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
        labels = batch["labels"]
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        torch.manual_seed(3)
        loss = trainer.compute_loss(model, dict(batch))
        torch.manual_seed(3)
        whole = model(**inputs).logits
        embeddings = [model.model.encoder.embed_tokens, model.model.decoder.embed_tokens]
        with token_cutoff(embeddings, 0.5, torch.tensor([0, 1, 2])):
            cut = model(**inputs).logits
        divergence = simcut_loss(whole, cut, labels)
        expected = (label_smoothed_loss(whole, labels, 0.1) + 3 * divergence) / (labels != -100).sum()
        torch.testing.assert_close(loss, expected)
        assert divergence > 0.01

    @pytest.mark.parametrize("extra", [{"simcut_alpha": 3.0, "simcut_p": 0.3}, {"rdrop_alpha": 5.0}], ids=str)
    def test_a_resumed_run_with_two_passes_ends_with_the_same_weights(self, tmp_path, extra):
        options = {"dropout": 0.2, "max_steps": 4, "max_tokens": 16, "save_strategy": "steps", "save_steps": 2, **extra}
        trainer = make_trainer(tmp_path, **options)
        trainer.train()
        expected = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        torch.manual_seed(99)
        resumed = make_trainer(tmp_path, **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        assert all(torch.equal(one, other) for one, other in zip(resumed.model.parameters(), expected))

    def test_bf16_trains_on_the_cpu_and_keeps_float32_weights(self, tmp_path):
        trainer = make_trainer(tmp_path, bf16=True, max_steps=30, learning_rate=1e-2)
        first = trainer.evaluate(make_dataset())["eval_loss"]
        trainer.train()
        assert trainer.evaluate(make_dataset())["eval_loss"] < 0.8 * first
        assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}

    @pytest.mark.parametrize(
        "schedule, options", [("inverse_sqrt", None), ("cosine", None), ("cosine_with_min_lr", {"min_lr": 1e-5})]
    )
    def test_the_schedules_of_the_papers(self, tmp_path, schedule, options):
        trainer = make_trainer(
            tmp_path,
            lr_scheduler_type=schedule,
            lr_scheduler_kwargs=options,
            warmup_steps=4,
            max_steps=16,
            learning_rate=1e-3,
            logging_steps=1,
        )
        trainer.train()
        rates = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
        assert rates[:4] == pytest.approx([0.0, 2.5e-4, 5e-4, 7.5e-4]) or rates[:4] == pytest.approx(
            [2.5e-4, 5e-4, 7.5e-4, 1e-3]
        )
        if schedule == "inverse_sqrt":
            assert rates[-1] / max(rates) == pytest.approx((4 / 15) ** 0.5, rel=0.05)
        else:
            assert rates[-1] < 0.1 * max(rates)

    def test_early_stopping_needs_and_uses_a_metric(self, tmp_path):
        trainer = make_trainer(
            tmp_path,
            eval_dataset=make_dataset(),
            learning_rate=1e-30,
            max_steps=50,
            eval_strategy="steps",
            eval_steps=1,
            metric_for_best_model="loss",
            early_stopping_patience=2,
            load_best_model_at_end=True,
            save_strategy="steps",
            save_steps=1,
            callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        )
        trainer.train()
        assert trainer.state.global_step == 3


class TestEvaluation:
    def test_the_loss_is_per_token_without_label_smoothing(self, tmp_path):
        dataset = make_dataset(5)
        trainer = make_trainer(tmp_path, eval_dataset=dataset, label_smoothing_factor=0.5, eval_max_tokens=16)
        batch = trainer.data_collator([dataset[index] for index in range(5)])
        labels = batch.pop("labels")
        trainer.model.eval()
        expected = F.cross_entropy(trainer.model(**batch).logits.flatten(0, 1), labels.flatten())
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), abs=1e-5)

    def test_texts_are_generated_and_scored_if_asked_for(self, tmp_path):
        seen = {}

        def text_metrics(texts, indices):
            seen.update(zip(indices, texts))
            return {"bleu": 7.0}

        dataset = make_dataset(6)
        trainer = make_trainer(tmp_path, eval_dataset=dataset, text_metrics=text_metrics, predict_with_generate=True)
        assert trainer.evaluate()["eval_bleu"] == 7.0
        assert sorted(seen) == list(range(6))
        trainer.generation_examples = 2
        seen.clear()
        trainer.evaluate()
        assert sorted(seen) == [0, 3]
        trainer.generation_examples = 4
        seen.clear()
        trainer.evaluate()
        assert sorted(seen) == [0, 1, 3, 4]

    def test_evaluation_leaves_the_model_in_its_mode(self, tmp_path):
        trainer = make_trainer(tmp_path, eval_dataset=make_dataset())
        trainer.model.train()
        trainer.evaluate()
        assert trainer.model.training


class TestGeneration:
    inputs = [[4, 5, 2], [6, 7, 8, 9, 2], [2], [5, 6, 7, 2]]

    @pytest.mark.parametrize("beams", [1, 3])
    def test_the_order_is_that_of_the_inputs_whatever_the_batches(self, beams):
        model, tokenizer = make_model().eval(), make_tokenizer()
        one = generate(model, tokenizer, self.inputs, DecodingArguments(num_beams=beams, max_length_factor=0))
        small = DecodingArguments(num_beams=beams, max_length_factor=0, decoding_max_tokens=1)
        assert [b[0].text for b in generate(model, tokenizer, self.inputs, small)] == [b[0].text for b in one]

    def test_nbest_comes_best_first_with_scores(self):
        model, tokenizer = make_model().eval(), make_tokenizer()
        for found in generate(model, tokenizer, self.inputs, DecodingArguments(num_beams=3), nbest=3):
            scores = [hypothesis.score for hypothesis in found]
            assert len(scores) == 3 and scores == sorted(scores, reverse=True)
            assert all(hypothesis.tokens >= 1 for hypothesis in found)

    def test_more_outputs_than_beams_raise(self):
        with pytest.raises(ValueError, match="nbest must be between 1 and num_beams = 1, got 2"):
            generate_batch(make_model(), make_tokenizer(), self.inputs, DecodingArguments(num_beams=1), nbest=2)

    def test_nothing_gives_nothing(self):
        assert generate(make_model(), make_tokenizer(), [], DecodingArguments()) == []


class TestArguments:
    @pytest.mark.parametrize(
        "options, message",
        [
            ({"per_device_train_batch_size": 4}, "per_device_train_batch_size has no effect here: max_tokens bounds"),
            ({"resume_from_checkpoint": "x"}, "use resume"),
            ({"enable_jit_checkpoint": True}, "enable_jit_checkpoint has no effect here: a run that is killed goes on"),
            ({"remove_unused_columns": False}, "remove_unused_columns has no effect here: the columns are known"),
            ({"sortish_sampler": True}, "sortish_sampler has no effect here"),
            (
                {"bf16_full_eval": True},
                "bf16_full_eval has no effect here: what an evaluation measures, and how, is fixed",
            ),
            ({"eval_accumulation_steps": 2}, "eval_accumulation_steps has no effect here: what an evaluation measures"),
            ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
            ({"eval_max_tokens": 0}, "eval_max_tokens must be at least 1, got 0"),
            ({"label_smoothing_factor": 1.0}, r"label_smoothing_factor must be in \[0, 1\), got 1.0"),
            ({"rdrop_alpha": -1.0}, "rdrop_alpha must be at least 0"),
            ({"simcut_alpha": -1.0}, "simcut_alpha must be at least 0"),
            ({"simcut_p": 1.5}, r"simcut_p must be in \[0, 1\], got 1.5"),
            ({"simcut_alpha": 3.0, "rdrop_alpha": 5.0}, "rdrop_alpha and simcut_alpha exclude each other"),
            ({"simcut_alpha": 3.0, "torch_compile": True}, "which torch_compile does not see"),
            ({"average_checkpoints": 5, "save_total_limit": 2}, "save_total_limit must be at least"),
            ({"average_checkpoints": 5, "load_best_model_at_end": True}, "exclude each other"),
            ({"early_stopping_patience": 2}, "needs metric_for_best_model"),
            ({"output_dir": None}, "output_dir is missing"),
        ],
    )
    def test_bad_values(self, tmp_path, options, message):
        with pytest.raises(ValueError, match=message):
            TokenBatchTrainingArguments(**{"output_dir": str(tmp_path), **options})

    def test_lengths_follow_a_selection_of_rows(self):
        dataset = make_dataset().select([3, 1])
        assert example_lengths(dataset).tolist() == [[8, 5], [8, 3]]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def step_of_one_process(rank, folder, port):
    faulthandler.dump_traceback_later(80, exit=True)  # A hang says where it is.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT=str(port), OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dataset = make_dataset(5)
    weights, loss, trainer = weights_after_a_step(
        folder, max_tokens=16, gradient_accumulation_steps=2, eval_dataset=dataset, eval_max_tokens=16
    )
    torch.save(
        {
            "weights": weights,
            "loss": loss,
            "eval_loss": trainer.evaluate()["eval_loss"],
            "texts": [beams[0].text for beams in trainer.generate(dataset["input_ids"][:], trainer.decoding)],
            "tokens": int(trainer.trained_items),
        },
        f"{folder}/{rank}.pt",
    )
    os._exit(0)  # Freeing the model after its process group waits for ever now and then.
