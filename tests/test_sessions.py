"""Several people at once; `python -m benchmarks.sessions` does it with 50."""

from dataclasses import replace

import pytest

from benchmarks import sessions
from benchmarks.sessions import Alone, crosstalk, talk

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with sessions.serving(tmp_path_factory.mktemp("store")) as served:
        yield served


def test_sessions_at_once_see_their_own_answers(url):
    assert crosstalk(url, sessions=5, reruns=4) == []


def test_another_sessions_answer_is_noticed(url, pool):
    import threading

    one, other = (talk(url, number, reruns=1, together=threading.Barrier(1))[0] for number in (7, 8))
    alone = Alone(pool)
    assert not alone.wrong(one) and not alone.wrong(other)
    flipped = replace(one.options, normalize=not one.options.normalize)
    assert "lane" in alone.wrong(replace(one, lane=other.lane))
    assert "toggles" in alone.wrong(replace(one, options=flipped))
    assert "margin" in alone.wrong(replace(one, margins=dict.fromkeys(one.margins, 9.0)))
    assert alone.wrong(replace(one, values=dict.fromkeys(one.values, other.text)))
