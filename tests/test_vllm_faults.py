"""A server that answers wrongly in every way: each is a named error within its deadline, never states to score."""

import itertools
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial

import pytest
import torch

from backend.errors import InputError, PrerequisiteError, RuntimeFault, RuntimeTimeout
from backend.runtimes.base import Engine, ForwardOptions, RuntimeSpec
from backend.runtimes.canary import Canary
from backend.runtimes.vllm import VLLMRuntime
from benchmarks.lying_server import FAULTS, D, answer, filled, other_model, serving, spec_of
from benchmarks.server_faults import AFTERWARDS, try_kind

IDS = [[5, 6, 7], [8, 9]]


@pytest.fixture
def server():
    with serving() as made:
        yield made


@pytest.fixture
def runtime(server):
    made = VLLMRuntime.connect(spec_of(server), deadline_s=2)
    yield made
    made.close()


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_answer_is_a_named_error_in_time_and_the_next_good_one_is_taken(server, runtime, name):
    fault, words = FAULTS[name]
    server.fault = fault
    started = time.monotonic()
    with pytest.raises(RuntimeFault) as raised:
        runtime.forward(IDS, ForwardOptions())
    assert words in str(raised.value) and raised.value.remedy
    assert time.monotonic() - started < 4
    assert isinstance(raised.value, RuntimeTimeout) == (name in ("dribble", "hangs")) or name == "endless"
    server.fault = None
    assert [tuple(rows.shape) for rows in runtime.forward(IDS, ForwardOptions())] == [(3, D), (2, D)]


@pytest.mark.parametrize(("dtype", "raw"), [("float16", "float16"), ("bfloat16", "bfloat16")])
def test_states_cross_in_two_bytes_a_value_raw_and_normalised(server, dtype, raw):
    asked = []

    def as_asked(handler, ids):
        asked.append(handler.payload["embed_dtype"])
        rows = torch.full((len(ids[0]), D), 0.5, dtype=getattr(torch, asked[-1]))
        body, headers = rows.view(torch.int16).numpy().tobytes(), answer(ids, embed_dtype=asked[-1])[1]
        handler.reply(body, headers)

    server.fault = as_asked
    with closing(VLLMRuntime.connect(replace(spec_of(server), dtype=dtype), deadline_s=2)) as runtime:
        asked.clear()
        states = [runtime.forward(IDS[:1], ForwardOptions(normalize=n))[0] for n in (False, True)]
    assert asked == [raw, "float16"]
    assert [str(s.dtype) for s in states] == [f"torch.{raw}", "torch.float32"]
    assert all((s == 0.5).all() for s in states)


class Managed:
    """A server that counts as started by the app."""

    log, stopped = None, False

    def __init__(self, server):
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.lost, self.cpu_s = threading.Event(), itertools.repeat(0.0)

    def cpu_seconds(self):
        return next(self.cpu_s)

    def is_stopped(self):
        return self.stopped

    def give_up(self):
        self.lost.set()

    def close(self):
        pass


@pytest.fixture
def watched(server, monkeypatch):
    """A client whose canary asks after 0.2 s of silence and waits half a second."""
    monkeypatch.setattr("backend.runtimes.vllm.Canary", partial(Canary, every_s=0.2, deadline_s=0.5))
    monkeypatch.setattr("backend.runtimes.canary.overloaded", lambda: False)
    made = VLLMRuntime.connect(spec_of(server), server=Managed(server))
    yield made
    made.close()


LIES = {
    "hangs": (lambda h, ids: time.sleep(3), "no answer to a request of 7 tokens within 1 s"),
    "other values": (other_model, "another answer than at first, relative difference 0.1"),
    "NaN": (filled(float("nan")), "another answer"),
    "500": (lambda h, ids: h.reply(b"", status=500), "a known request failed"),
    "a row too few": (lambda h, ids: h.reply(*answer([ids[0][1:]])), "a known request failed"),
}


@pytest.mark.parametrize("name", LIES)
def test_the_canary_notices_a_server_that_nobody_asks(server, watched, name):
    assert not watched.lost.wait(1)  # healthy, it goes on
    server.fault, words = LIES[name]
    assert watched.lost.wait(2) and words in watched.lost_reason


def test_the_canary_leaves_a_server_alone_that_is_busy_computing(server, watched):
    watched.server.cpu_s = itertools.count(0.0)  # a second of processor time between looks
    server.fault = lambda handler, ids: time.sleep(2.5) or handler.reply(*answer(ids))
    asking = threading.Thread(target=watched.forward, args=(IDS, ForwardOptions()), daemon=True)
    asking.start()
    asking.join(5)
    assert not watched.lost.is_set()


def test_on_a_machine_with_much_else_to_do_only_a_stopped_process_is_a_hang(server, watched, monkeypatch):
    monkeypatch.setattr("backend.runtimes.canary.overloaded", lambda: True)
    server.fault = lambda handler, ids: time.sleep(1)
    assert not watched.lost.wait(2.5)
    watched.server.stopped = True
    assert watched.lost.wait(2.5)


def test_the_canary_notices_a_hang_with_a_request_under_way(server, watched):
    server.fault = lambda handler, ids: time.sleep(4)
    threading.Thread(target=lambda: suppressed(watched.forward, IDS, ForwardOptions()), daemon=True).start()
    assert watched.lost.wait(3) and "within 1 s" in watched.lost_reason


def suppressed(call, *arguments):
    with suppress(RuntimeFault, PrerequisiteError):
        call(*arguments)


def test_closing_ends_a_request_under_way_and_those_that_come_later(server, runtime):
    server.fault = lambda handler, ids: time.sleep(5)
    raised = []

    def ask():
        try:
            runtime.forward(IDS, ForwardOptions())
        except RuntimeFault as error:
            raised.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    time.sleep(0.3)  # until the request is on its way
    runtime.close()
    asking.join(timeout=2)
    assert raised and "was closed" in str(raised[0])
    with pytest.raises(PrerequisiteError, match="unloaded"):
        runtime.forward(IDS, ForwardOptions())


def test_a_server_that_is_down():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(PrerequisiteError, match="no server answers"):
        VLLMRuntime.connect(RuntimeSpec("remote", Engine.VLLM, "base", "float16", urls=(url,)))


def _down():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def pair(server):
    """Two equal servers behind one runtime."""
    with serving() as other:
        urls = tuple(f"http://127.0.0.1:{each.server_port}" for each in (server, other))
        made = VLLMRuntime.connect(replace(spec_of(server), urls=urls), deadline_s=4)
        yield server, other, made
        made.close()


def _count(answered, name, wait_s=0.0):
    def fault(handler, ids):
        time.sleep(wait_s)
        answered.append(name)
        handler.reply(*answer(ids))

    return fault


def test_the_less_busy_of_two_servers_is_asked(pair):
    slow, fast, runtime = pair
    answered = []
    slow.fault, fast.fault = _count(answered, "slow", 1.0), _count(answered, "fast", 0.05)
    started = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: runtime.forward(IDS, ForwardOptions()), range(12)))
    # in turn, six requests would each wait a second
    assert answered.count("slow") <= 2 and answered.count("fast") >= 10 and time.monotonic() - started < 2.5


def test_idle_servers_take_turns(pair):
    one, other, runtime = pair
    answered = []
    one.fault, other.fault = _count(answered, "one"), _count(answered, "other")
    for _ in range(10):
        runtime.forward(IDS, ForwardOptions())
    assert answered.count("one") == 5


def test_a_server_that_goes_down_fails_no_request(pair):
    one, other, runtime = pair
    one.shutdown()
    one.server_close()
    for _ in range(6):
        assert len(runtime.forward(IDS, ForwardOptions())) == 2
    other.fault = lambda handler, ids: handler.reply(b"", status=500)
    with pytest.raises(RuntimeFault, match="status 500"):  # an answer is an answer: it is not asked for elsewhere
        runtime.forward(IDS, ForwardOptions())


def test_a_server_that_is_down_from_the_start_is_left_out(server):
    made = VLLMRuntime.connect(replace(spec_of(server), urls=(_down(), *spec_of(server).urls)))
    assert len(made.forward(IDS, ForwardOptions())) == 2 and "1 of 2 servers" in made.info.device
    made.close()
    with pytest.raises(PrerequisiteError, match="any of its 2 urls"):
        VLLMRuntime.connect(replace(spec_of(server), urls=(_down(), _down())))


def test_servers_that_answer_differently_are_not_one_runtime(server):
    with serving() as other:
        other.fault = other_model
        urls = tuple(f"http://127.0.0.1:{each.server_port}" for each in (server, other))
        with pytest.raises(PrerequisiteError, match="not equal"):
            VLLMRuntime.connect(replace(spec_of(server), urls=urls))


@pytest.mark.parametrize("url", ["ftp://somewhere", "localhost:8000", ""])
def test_a_url_that_is_none(url):
    with pytest.raises(PrerequisiteError, match="not a server address"):
        VLLMRuntime.connect(RuntimeSpec("remote", Engine.VLLM, "base", "float16", urls=(url,)))


def test_no_adapter_of_that_name(server):
    server.models = ("base",)
    with pytest.raises(PrerequisiteError, match="does not serve probe"):
        VLLMRuntime.connect(spec_of(server))


@pytest.mark.parametrize("version", ["0.15.1", "nonsense"])
def test_a_version_that_cannot_choose_adapters(server, version):
    server.version = version
    with pytest.raises(PrerequisiteError):
        VLLMRuntime.connect(spec_of(server))


def test_the_servers_own_limit_counts(server):
    made = VLLMRuntime.connect(spec_of(server))
    with pytest.raises(InputError, match="at most 64"):
        made.forward([[5] * 65], ForwardOptions())
    made.close()
    with pytest.raises(PrerequisiteError, match="unloaded"):
        made.forward([[5]], ForwardOptions())


@pytest.mark.parametrize("kind", AFTERWARDS)
def test_states_of_another_model_after_a_break_or_silence_are_not_scored(kind):
    tally = try_kind(kind, count=3, deadline_s=2)
    assert tally.tries == 3 and tally.sound, tally


def test_a_server_that_contradicts_itself_is_not_met(server):
    values = itertools.count(1)
    server.fault = lambda handler, ids: filled(next(values))(handler, ids)
    with pytest.raises(RuntimeFault, match="another answer"):
        VLLMRuntime.connect(spec_of(server), deadline_s=2)
    server.fault = filled(0.0)
    with pytest.raises(RuntimeFault, match="another answer"):
        VLLMRuntime.connect(spec_of(server), deadline_s=2)


def test_a_doubted_server_is_believed_again_once_it_answers_as_before(server, runtime):
    server.fault = FAULTS["500"][0]
    with pytest.raises(RuntimeFault, match="status 500"):
        runtime.forward(IDS, ForwardOptions())
    server.fault = other_model
    for _ in range(2):
        with pytest.raises(RuntimeFault, match="another answer than before"):
            runtime.forward(IDS, ForwardOptions())
    server.fault = None
    assert len(runtime.forward(IDS, ForwardOptions())) == 2


def test_neither_redirects_nor_proxies_of_the_environment_are_followed(server, monkeypatch):
    with serving() as elsewhere:
        asked = []
        elsewhere.fault = lambda handler, ids: asked.append(ids)
        url = f"http://127.0.0.1:{elsewhere.server_port}"
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        made = VLLMRuntime.connect(spec_of(server), deadline_s=2)
        assert len(made.forward(IDS, ForwardOptions())) == 2
        for status in (301, 302, 303, 307, 308):
            server.fault = lambda h, ids, status=status: h.reply(b"", {"location": f"{url}/pooling"}, status=status)
            with pytest.raises(RuntimeFault, match=f"status {status}"):
                made.forward(IDS, ForwardOptions())
        made.close()
        assert not asked


def test_what_is_compressed_or_endless_is_not_read(server, runtime, monkeypatch):
    server.fault = FAULTS["gzip bomb"][0]
    with pytest.raises(RuntimeFault, match="compressed"):
        runtime.forward(IDS, ForwardOptions())
    monkeypatch.setattr("backend.runtimes.vllm_exchange._MAX_ANSWER_BYTES", 2**20)
    server.fault = FAULTS["endless"][0]
    with pytest.raises(RuntimeFault, match="above 1 MiB"):
        runtime.forward(IDS, ForwardOptions())
