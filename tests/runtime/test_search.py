"""Beam search: what is found, when it stops, and that finished sentences leave the batch.

That it finds what ``generate()`` finds is tested with models in tests/training/test_decoding.py.
"""

import numpy as np
import pytest

from seqdyconv.runtime.search import output_limits, search

V, END = 6, 2


def chooser(tables, calls=None):
    """A step over log-probabilities (V, V), of each next token after each token, a table for each sentence."""
    tables = np.asarray(tables, np.float64)

    def step(tokens, rows, scores, kept):
        nonlocal tables
        tables = tables if kept is None else tables[kept]
        if calls is not None:
            calls.append(len(tokens))
        totals = scores[..., None] + np.take_along_axis(tables, tokens[..., None], 1)
        flat = totals.reshape(len(tokens), -1)
        best = np.argsort(-flat, axis=1, kind="stable")[:, : 2 * tokens.shape[1]]
        return np.take_along_axis(flat, best, 1), best, totals[..., END]

    return step


def table(**after):
    """Log-probabilities: ``a3={4: -0.1}`` says that 4 follows 3 so; all else is unlikely."""
    rows = np.full((V, V), -9.0)
    for name, following in after.items():
        for token, value in following.items():
            rows[int(name[1:]), token] = value
    return rows


def found(tables, limits, num_beams=2, **options):
    return search(chooser(tables), limits, num_beams=num_beams, start=0, ends=[END], vocabulary=V, **options)


ONE = table(a0={3: -1.0, 4: -1.1}, a3={END: -3.0, 5: -0.1}, a4={END: -0.1}, a5={END: -2.0, 5: -0.2})


def test_the_best_of_all_outputs_comes_first_with_its_score():
    ((best, second),) = found([ONE], [9], nbest=2, length_penalty=0.0)
    assert (best.tokens, second.tokens) == ([4, END], [3, 5, END])
    assert [best.score, second.score] == pytest.approx([-1.2, -3.1])


def test_greedy_search_takes_the_best_token_each_time_and_gives_no_score():
    assert found([ONE], [4], num_beams=1) == [[([3, 5, 5, END], None)]]


def test_each_output_ends_at_its_own_limit():
    assert [len(best.tokens) for (best,) in found([table()] * 3, [1, 4, 2])] == [1, 4, 2]


def test_finished_sentences_leave_the_batch_and_change_nothing():
    calls = []
    long = table(a0={3: -0.1}, a3={3: -0.1})
    options = {"num_beams": 2, "start": 0, "ends": [END], "vocabulary": V}
    together = search(chooser([ONE, long, ONE, long], calls), [9, 30, 9, 12], **options)
    alone = [search(chooser([each]), [limit], **options)[0] for each, limit in zip([ONE, long] * 2, [9, 30, 9, 12])]
    assert together == alone
    assert calls[0] == 4 and calls[12] == 1 and len(calls) == 30


@pytest.mark.parametrize("length_penalty, length", [(-10.0, 2), (0.0, 2), (10.0, 9)])
def test_a_strong_penalty_chooses_short_or_long_outputs(length_penalty, length):
    ((best,),) = found([table(a0={3: -0.5}, a3={3: -0.4, END: -1.5})], [9], length_penalty=length_penalty)
    assert len(best.tokens) == length


def test_every_output_may_have_its_end():
    assert output_limits([[5], []], 0.0, 0, float("inf")) == [1, 1]


def test_nothing_gives_nothing():
    assert found(np.zeros((0, V, V)), []) == []


def test_numbers_that_are_none_do_not_stop_the_search_from_ending():
    assert len(found([np.full((V, V), np.nan)], [5])[0][0].tokens) <= 5
