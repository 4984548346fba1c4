"""The demo bundle, a tiny one to damage, and live runtimes, each made or loaded once for all tests."""

import shutil
from dataclasses import replace

import pytest

from backend.bundle import DEMO, load_bundle
from backend.pool import Pool


@pytest.fixture(scope="session")
def demo():
    return load_bundle(DEMO)


@pytest.fixture(scope="session")
def pool():
    with Pool() as shared:
        yield shared


@pytest.fixture(scope="session")
def hf_fp32(demo, pool):
    return pool.get(replace(demo.runtime("hf-bf16"), name="hf-fp32", dtype="float32"))


@pytest.fixture(scope="session")
def vllm_fp16(demo, pool):
    """A real vLLM server with the demo's base and adapter; starting takes about 30 s on 2 cores."""
    return pool.get(demo.runtime("vllm-fp16"))


@pytest.fixture(scope="session")
def vllm_awq(demo, pool):
    """A real vLLM server with the demo's AWQ base and the adapter rescaled for it."""
    return pool.get(demo.runtime("vllm-awq"))


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The folder of a tiny bundle with nothing wrong; not to be changed."""
    from tests import tiny

    return tiny.make(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def bundle(whole, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(whole, tmp_path / "bundle")
