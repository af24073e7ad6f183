"""Batches bounded by padded tokens, whose order depends on seed and epoch only."""

import time

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import DataLoader
from transformers import TrainerControl, TrainerState, TrainingArguments

from seqdyconv.data.batching import SetEpochCallback, TokenBatchSampler


def random_lengths(number=500, sides=2, seed=0):
    lengths = np.random.default_rng(seed).geometric(0.05, size=(number, sides))
    return lengths[:, 0] if sides == 1 else lengths


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 50, 400, 10**6])
def test_every_example_comes_once_and_batches_keep_the_bound(sides, shuffle, max_tokens):
    lengths = random_lengths(sides=sides)
    sampler = TokenBatchSampler(lengths, max_tokens, shuffle=shuffle)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) * lengths[batch].max() <= max_tokens or len(batch) == 1


def test_batches_are_full_and_have_little_padding():
    source = random_lengths(5000, sides=1)
    target = np.ceil(source * np.random.default_rng(1).uniform(0.8, 1.25, 5000)).astype(int)
    lengths = np.stack([source, target], axis=1)
    batches = list(TokenBatchSampler(lengths, 2000))
    padded = sum(len(batch) * lengths[batch].max(axis=0) for batch in batches)
    assert lengths.max(axis=1).sum() / sum(len(batch) * lengths[batch].max() for batch in batches) > 0.95
    assert lengths.sum() / padded.sum() > 0.85
    assert len(batches) < 1.15 * lengths.max(axis=1).sum() / 2000


def test_the_order_depends_on_seed_and_epoch_only():
    lengths = random_lengths()

    def batches(seed, epoch):
        sampler = TokenBatchSampler(lengths, 300, seed=seed)
        sampler.set_epoch(epoch)
        np.random.seed(epoch)
        return list(sampler)

    assert batches(1, 2) == batches(1, 2)
    assert batches(1, 2) != batches(1, 3)
    assert batches(1, 2) != batches(2, 2)
    assert {len(batches(1, epoch)) for epoch in range(5)} == {len(TokenBatchSampler(lengths, 300))}
    # Not only the order of the batches is new, but also who is with whom.
    assert {frozenset(batch) for batch in batches(1, 2)} != {frozenset(batch) for batch in batches(1, 3)}


class TestMixedLengths:
    @pytest.mark.parametrize("sides", [1, 2])
    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("max_tokens", [1, 50, 400, 10**6])
    def test_every_example_comes_once_and_batches_keep_the_bound_without_padding(self, sides, shuffle, max_tokens):
        lengths = random_lengths(sides=sides)
        sampler = TokenBatchSampler(lengths, max_tokens, shuffle=shuffle, mix_lengths=True)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        for batch in batches:
            assert len(batch) == 1 or lengths[batch].reshape(len(batch), -1).max(axis=1).sum() <= max_tokens

    def test_batches_are_full_and_alike(self):
        lengths = random_lengths(5000, sides=1)
        batches = list(TokenBatchSampler(lengths, 2000, mix_lengths=True))
        assert min(lengths[batch].sum() for batch in batches) >= 2000 - 2 * lengths.max()
        assert max(map(len, batches)) - min(map(len, batches)) <= 1
        assert np.std([lengths[batch].std() for batch in batches]) < 0.1 * lengths.std()

    def test_one_long_example_does_not_make_all_batches_small(self):
        lengths = [10] * 100 + [99]
        assert sorted(map(len, TokenBatchSampler(lengths, 100, mix_lengths=True))) == [1] + [10] * 10

    def test_the_order_depends_on_seed_and_epoch_only(self):
        def batches(seed, epoch):
            sampler = TokenBatchSampler(random_lengths(), 300, seed=seed, mix_lengths=True)
            sampler.set_epoch(epoch)
            return list(sampler)

        assert batches(1, 2) == batches(1, 2)
        assert batches(1, 2) != batches(2, 2)
        assert {frozenset(batch) for batch in batches(1, 2)} != {frozenset(batch) for batch in batches(1, 3)}
        assert len({len(batches(1, epoch)) for epoch in range(5)}) == 1


def test_without_shuffling_batches_go_from_short_to_long():
    lengths = random_lengths(sides=1)
    maxima = [lengths[batch].max() for batch in TokenBatchSampler(lengths, 300, shuffle=False)]
    assert maxima == sorted(maxima)


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_see_all_examples_in_equally_many_batches(processes):
    sampler = TokenBatchSampler(random_lengths(), 300)
    shards = [list(BatchSamplerShard(sampler, processes, index)) for index in range(processes)]
    assert len({len(shard) for shard in shards}) == 1
    seen = [index for shard in shards for batch in shard for index in batch]
    assert set(seen) == set(range(500))
    assert sum(map(len, shards)) - len(sampler) < processes


@pytest.mark.parametrize(
    "lengths, max_tokens, message",
    [
        ([], 10, "with N >= 1"),
        ([[1, 2, 3]], 10, r"must be \(N,\) or \(N, 2\)"),
        ([3, 0], 10, "at least 1, got 0"),
        ([3], 0, "max_tokens must be at least 1, got 0"),
    ],
)
def test_bad_input(lengths, max_tokens, message):
    with pytest.raises(ValueError, match=message):
        TokenBatchSampler(lengths, max_tokens)


def test_a_million_examples_take_seconds():
    lengths = random_lengths(1_000_000)
    start = time.perf_counter()
    for _ in TokenBatchSampler(lengths, 4000):
        pass
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("epoch", [None, 0, 0.5, 1.0, 2.9, 2.9999999999])
def test_the_callback_reaches_a_wrapped_sampler(tmp_path, epoch):
    sampler = TokenBatchSampler([1, 2, 3], 3)
    loader = DataLoader([0, 1, 2], batch_sampler=BatchSamplerShard(BatchSamplerShard(sampler, 1, 0), 1, 0))
    state = TrainerState(epoch=epoch)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    SetEpochCallback().on_epoch_begin(args, state, TrainerControl(), train_dataloader=loader)
    assert sampler.epoch == (3 if epoch == 2.9999999999 else int(epoch or 0))
    SetEpochCallback().on_epoch_begin(args, state, TrainerControl(), train_dataloader=DataLoader([1]))
