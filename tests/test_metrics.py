"""The metric ladder against independent implementations, and statistics against statsmodels."""

import random

import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint
from transformers.data.metrics import squad_metrics  # the official SQuAD v2 script's functions

from backend.errors import InputError
from backend.metrics import SlotRow, measure, normalize_answer, token_f1
from backend.statistics import Verdict, mcnemar_p, non_inferiority, wilson


def test_f1_and_normalisation_equal_squad_on_500_random_cases():
    rng = random.Random(3)
    words = ["the", "a", "An", "New", "york", "York,", "(-1,", "-2)", "$20", "next", "Friday", "friday.", "", "é"]
    positive = 0
    for _ in range(500):
        a, b = (" ".join(rng.choices(words, k=rng.randint(0, 5))) for _ in range(2))
        assert normalize_answer(a) == squad_metrics.normalize_answer(a)
        assert token_f1(a, b) == pytest.approx(squad_metrics.compute_f1(b, a))
        assert (normalize_answer(a) == normalize_answer(b)) == bool(squad_metrics.compute_exact(b, a))
        positive += 0 < squad_metrics.compute_f1(b, a) < 1
    assert positive > 100


def test_wilson_and_mcnemar_equal_statsmodels():
    rng = random.Random(4)
    for _ in range(200):
        n = rng.randint(1, 500)
        right = rng.randint(0, n)
        assert wilson(right, n) == pytest.approx(proportion_confint(right, n, method="wilson"))
        b, c = rng.randint(0, 40), rng.randint(0, 40)
        expected = mcnemar([[100, b], [c, 100]], exact=True).pvalue if b + c else 1.0
        assert mcnemar_p(b, c) == pytest.approx(expected)


def test_non_inferiority_says_yes_no_and_how_many_more():
    assert non_inferiority(0, 0, 1000, margin=0.01).verdict is Verdict.YES
    assert non_inferiority(60, 5, 1000, margin=0.01).verdict is Verdict.NO
    unclear = non_inferiority(3, 1, 100, margin=0.01)
    assert unclear.verdict is Verdict.NOT_ENOUGH_DATA and unclear.n_needed > 100


def test_non_inferiority_keeps_its_error_rate():
    """Where the true loss is exactly the margin, `yes` must come in at most about 5 % of experiments."""
    rng = random.Random(5)
    wrong = 0
    for _ in range(2000):
        flips = [rng.random() for _ in range(800)]
        b, c = sum(f < 0.04 for f in flips), sum(0.04 <= f < 0.06 for f in flips)  # true difference -2 points
        wrong += non_inferiority(b, c, 800, margin=0.02).verdict is Verdict.YES
    assert 0.01 < wrong / 2000 < 0.065


def row(gold, value, *, raw=None, tokens=True):
    return SlotRow(gold is not None, value is not None, tokens, value or "", gold or "", raw or gold or "")


def test_the_ladder_tells_the_notes_gap_apart():
    rows = [row("(-1, -2", "(-1, -2", raw="-1, -2"), row("Rome", "Rome"), row("Oslo", "oslo", tokens=False)]
    rows.append(row(None, None))
    found = measure(rows)
    assert (found.decoded, found.raw, found.oracle_raw) == pytest.approx((2 / 3, 1 / 3, 2 / 3))
    assert found.normalized == 1.0 and found.tokens == pytest.approx(2 / 3)
    assert (found.n_slots, found.n_present, found.all_slot_accuracy) == (4, 3, 0.75)


def test_nothing_is_not_a_hundred_per_cent():
    with pytest.raises(InputError):
        measure([])
    absent = measure([row(None, None)])
    assert absent.decoded is None and absent.presence_accuracy == 1.0 and absent.presence_recall is None
    for empty in (lambda: wilson(0, 0), lambda: non_inferiority(0, 0, 0, margin=0.01)):
        with pytest.raises(InputError):
            empty()
