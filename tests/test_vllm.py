"""A real vLLM server against HuggingFace, and what happens when it is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from backend.errors import BackendError, InputError
from backend.pool import Pool, State
from backend.runtimes import guard
from backend.runtimes.base import ForwardOptions
from backend.runtimes.vllm_compat import installed_spelling, serve_line, spelling_of
from backend.runtimes.vllm_process import VLLMProcess
from backend.schema import load_schemas

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def ids(demo):
    builder = demo.load_probe().builder
    schemas = load_schemas(demo.schemas)
    texts = [("book_flight", "Fly me from Boston to Seattle next Friday"), ("set_alarm", "wake me up at 6:45 tomorrow")]
    texts += [("book_flight", "I need to get from Oslo to Rome " * n) for n in (1, 4, 9)]
    return [builder.build(schemas[function], text).ids for function, text in texts]


@pytest.mark.parametrize("lora", [True, False])
def test_fp16_states_equal_hf_fp32(vllm_fp16, hf_fp32, ids, lora):
    options = ForwardOptions(lora=lora)
    for ours, reference in zip(vllm_fp16.forward(ids, options), hf_fp32.forward(ids, options), strict=True):
        assert (ours.float() - reference).abs().mean() <= 2e-3
        assert torch.cosine_similarity(ours.float(), reference).min() >= 0.9999


def test_the_engine_normalises_per_request_and_as_we_do(vllm_fp16, ids):
    raw, normalized = (vllm_fp16.forward(ids, ForwardOptions(normalize=n)) for n in (False, True))
    for before, after in zip(raw, normalized, strict=True):
        assert before.float().norm(dim=-1).min() > 2
        assert (after.norm(dim=-1) - 1).abs().max() <= 1e-3
        assert (after - torch.nn.functional.normalize(before.float(), dim=-1)).abs().max() <= 2e-3


@pytest.mark.parametrize("normalize", [False, True])
def test_an_utterance_moves_two_bytes_a_value(vllm_fp16, ids, monkeypatch, normalize):
    bodies, pool = [], vllm_fp16._client.pool

    def counted(payloads, **how):
        answers = pool(payloads, **how)
        bodies.extend(len(answer.body) for answer in answers)
        return answers

    monkeypatch.setattr(vllm_fp16._client, "pool", counted)
    vllm_fp16.forward(ids[:1], ForwardOptions(normalize=normalize))
    assert bodies == [2 * len(ids[0]) * vllm_fp16.info.d_model]


def test_toggles_load_nothing(demo, pool, vllm_fp16, ids):
    before = vllm_fp16.server.pids()
    for normalize in (False, True):
        for lora in (False, True):
            vllm_fp16.forward(ids, ForwardOptions(normalize=normalize, lora=lora))
    assert vllm_fp16.server.pids() == before
    assert pool.get(demo.runtime("vllm-fp16")) is vllm_fp16


def test_eight_threads_with_mixed_toggles_get_their_own_answers(vllm_fp16, ids):
    options = [ForwardOptions(normalize=n, lora=lo) for n in (False, True) for lo in (False, True)] * 2
    alone = [vllm_fp16.forward(ids, o) for o in options]
    together = [None] * len(options)

    def work(i):
        together[i] = vllm_fp16.forward(ids, options[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(options))]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for a, b in zip(alone, together, strict=True):
        for x, y in zip(a, b, strict=True):
            # batches of another size round differently in FP16; another toggle would be worlds apart
            assert torch.cosine_similarity(x.float(), y.float()).min() > 0.9999


def test_a_cpu_engine_is_two_processes_that_leave_the_cores_to_others(vllm_fp16):
    names = {pid: " ".join([psutil.Process(pid).name(), *psutil.Process(pid).cmdline()]) for pid in vllm_fp16.server.pids()}
    assert not any("Worker" in name for name in names.values())
    server = next(pid for pid, name in names.items() if "api_server" in name)  # the engine writes its title over its own
    assert psutil.Process(server).environ()["GOMP_SPINCOUNT"] == "500"


def test_too_long_a_prompt_is_refused_before_it_is_sent(vllm_fp16):
    with pytest.raises(InputError, match="at most"):
        vllm_fp16.forward([[5] * 2000], ForwardOptions())


def test_the_spelling_by_version_is_that_of_the_installed_classes(demo):
    looked = installed_spelling()
    assert spelling_of(looked.version) == looked
    line = serve_line(demo.runtime("vllm-fp16"), looked)
    assert '"use_activation": false' in line and "--enable-lora" in line


# name of the process, signal, and the seconds within which it must be noticed
FAULTS = {
    "server": ("api_server", signal.SIGKILL, 5),
    "engine": ("EngineCore", signal.SIGKILL, 5),
    "worker": ("VLLM::Worker", signal.SIGKILL, 5),
    "engine hangs": ("EngineCore", signal.SIGSTOP, 60),
}


@pytest.mark.timeout(420)
def test_kill_9_in_the_middle_of_a_request_is_an_error_and_heals_and_a_hang_is_noticed(demo, ids, monkeypatch):
    """One server after the other, as each start takes half a minute: three restarts, and the fourth loss is the last."""
    monkeypatch.setattr("backend.pool.BACKOFF_S", (0.1, 0.1, 0.1))  # the pauses have a test of their own
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")  # with a worker, as on several GPUs
    spec = demo.runtime("vllm-fp16")
    family = []
    with Pool() as own:
        for name, (process, sent, seconds) in FAULTS.items():
            runtime = own.get(spec, timeout_s=120)
            assert len(runtime.forward(ids, ForwardOptions())) == len(ids)  # it works again
            family += runtime.server.pids()
            busy = sent == signal.SIGKILL
            raised = _ask_until_it_fails(runtime, ids) if busy else None
            os.kill(_pid(runtime.server.pids(), process), sent)
            at = time.monotonic()
            assert runtime.lost.wait(seconds), name
            if busy:
                raised.join(timeout=seconds)
                assert not raised.is_alive() and time.monotonic() - at < seconds, name
            _until(lambda: own.status(spec).state is not State.READY)
        _until(lambda: own.status(spec).state is not State.LOADING)
        assert own.status(spec).state is State.FAILED and "no answer to a request" in own.status(spec).error.found
    _wait_gone(family)


def _pid(pids, wanted):
    names = {pid: " ".join([psutil.Process(pid).name(), *psutil.Process(pid).cmdline()]) for pid in pids}
    return next(pid for pid, name in names.items() if wanted in name)


def _ask_until_it_fails(runtime, ids):
    def ask():
        with suppress(BackendError):
            while True:
                runtime.forward(ids * 20, ForwardOptions())

    asking = threading.Thread(target=ask, daemon=True)  # a caller that hangs must fail the test, not the test run
    asking.start()
    time.sleep(1)
    return asking


def _until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_no_process_is_left_when_the_app_is_killed(demo, tmp_path):
    code = (
        "import sys, time\n"
        "from backend.bundle import DEMO, load_bundle\n"
        "from backend.pool import Pool\n"
        "runtime = Pool().get(load_bundle(DEMO).runtime('vllm-fp16'))\n"
        "print(*runtime.server.pids(), flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as app:
        family = [int(pid) for pid in app.stdout.readline().split()]
        app.kill()
    assert len(family) >= 2
    _wait_gone(family)


def test_what_a_killed_guard_leaves_is_ended(tmp_path):
    (tmp_path / "log").touch()
    command = [sys.executable, str(Path(guard.__file__)), "sleep", "600"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    server = VLLMProcess("http://127.0.0.1:9", process, tmp_path / "log")
    _until(server.pids)
    family = server.pids()
    threading.Thread(target=server._watch, daemon=True).start()
    _until(lambda: len(server._family) == len(family))
    os.kill(server.guard_pid, signal.SIGKILL)
    assert server.lost.wait(5)
    _wait_gone(family, seconds=5)


def _wait_gone(pids, seconds=15):
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
