"""The survey's figures against predictions made anew, and against a stored run."""

import numpy as np
import pytest

from backend.evaluation import Plan, begin, carry_on
from backend.norm_survey import NullTable, decisions, live_table, stored_table, survey_tokens, sweep
from backend.norms import normalize
from backend.runtimes.base import ForwardOptions
from backend.scoring import load_examples
from backend.state_cache import StateCache
from backend.store import Store
from backend.stored_examples import first_example, neighbours, sample_questions


def _table(weight, norm, gold=None):
    return NullTable(np.array(weight), -1.0, np.array(norm), None if gold is None else np.array(gold))


def test_band_fix_and_sweep_by_hand():
    # raw margins 1, 9, -3; divided by 4: -0.5, 1.5, -1.5; the first flips. b' = -1 / 4 brings it back
    table = _table([2.0, 10.0, -2.0], [4.0, 4.0, 4.0], [True, True, False])
    assert table.in_band == pytest.approx(1 / 3)
    raw, normalised, fixed = decisions(table)
    assert (raw.accuracy, raw.flips, normalised.accuracy, normalised.flips) == (1.0, 0, pytest.approx(2 / 3), 1)
    assert (fixed.accuracy, fixed.flips) == (1.0, 0)
    curve = sweep(table)
    assert curve.accuracy[0] == normalised.accuracy and curve.accuracy[-1] == 1.0 and curve.mean_norm == 4.0


def test_without_gold_the_sweep_counts_agreement_with_raw_states():
    table = _table([2.0, -2.0], [4.0, 4.0])
    assert all(d.accuracy is None for d in decisions(table))
    assert sweep(table).accuracy[0] == 0.5


@pytest.fixture(scope="module")
def probe(demo):
    return demo.load_probe()


def test_live_and_stored_tables_say_what_the_probe_says(demo, probe, pool, tmp_path):
    spec, n = demo.runtime("hf-fp16"), 40
    examples, prompts = load_examples(demo, probe.builder, limit=n)
    with Store(tmp_path / "runs.sqlite") as store:
        run = begin(store, Plan(demo, (spec,), (True,), (False, True), dataset=demo.dataset, limit=n))
        carry_on(store, run, Plan(demo, (spec,), (True,), (False, True), dataset=demo.dataset, limit=n), pool.get)
        stored = stored_table(store, run, spec.name, probe)
        assert len(sample_questions(store, run, limit=7)) == 7
        beside = neighbours(store, run, first_example(store, run))
        assert beside.previous is None and beside.next is not None
        assert neighbours(store, run, beside.next).previous == first_example(store, run)
    states = pool.get(spec).forward([prompt.ids for prompt in prompts], ForwardOptions())
    live = live_table(probe, prompts, states)
    pairs = zip(prompts, states, strict=True)
    flips = sum(
        a.present != b.present
        for prompt, rows in pairs
        for a, b in zip(probe.predict(prompt, rows), probe.predict(prompt, normalize(rows)), strict=True)
    )
    assert decisions(live)[1].flips == decisions(stored)[1].flips == flips > 0
    assert sorted(live.norm) == pytest.approx(sorted(stored.norm), rel=1e-3)
    tokens = survey_tokens(probe, prompts, states)
    assert len(tokens.norms) == sum(len(prompt.ids) for prompt in prompts) and 0 < tokens.certified <= tokens.n_slots


def test_the_cache_keeps_the_latest_within_its_limit(pool, demo):
    runtime = pool.get(demo.runtime("hf-fp16"))
    rows = runtime.info.d_model * 4 * 3
    cache = StateCache(limit_bytes=2 * rows)
    first = cache.states(runtime, [1, 2, 3], ForwardOptions())
    cache.states(runtime, [4, 5, 6], ForwardOptions())
    assert cache.states(runtime, [1, 2, 3], ForwardOptions()) is first
    cache.states(runtime, [7, 8, 9], ForwardOptions())  # pushes out the one not used for longest
    assert cache.states(runtime, [1, 2, 3], ForwardOptions()) is first
    assert cache.states(runtime, [1, 2, 3], ForwardOptions(normalize=True)) is not first
