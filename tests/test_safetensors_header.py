"""Headers and finite scans without the library, against the library; damaged files are told apart from whole ones."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from backend.errors import BundleError
from backend.safetensors_header import non_finite, read_header

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2, torch.int32, torch.bool)


@pytest.fixture
def path(tmp_path):
    torch.manual_seed(0)
    tensors = {f"t{i}": (torch.randn(3, 5) * 50).to(dtype) for i, dtype in enumerate(DTYPES)}
    save_file(tensors | {"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 4)}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_names_and_shapes_are_the_librarys(path):
    with safe_open(path, framework="pt") as file:
        expected = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert {entry.name: entry.shape for entry in read_header(path)} == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES[:5])
def test_each_value_that_is_not_finite_is_found_wherever_it_stands(tmp_path, dtype, value):
    n = 2**20 + 3  # more than one piece
    for place in (0, n // 2, n - 1):
        tensor = torch.full((n,), torch.finfo(dtype).max, dtype=torch.float64).to(dtype)
        bad = torch.tensor([value]).to(dtype)
        tensor[place] = bad[0]
        save_file({"good": torch.ones(7, dtype=dtype), "bad": tensor}, tmp_path / "b.safetensors")
        assert list(non_finite(tmp_path / "b.safetensors")) == ["bad"]


def test_finite_values_and_whole_numbers_are_fine(path):
    assert list(non_finite(path)) == []


def _header(change):
    def damage(data):
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    return damage


DAMAGED = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-1],
    "cut in the header": lambda data: data[:40],
    "more at the end": lambda data: data + b"x",
    "a header as long as memory": lambda data: (2**62).to_bytes(8, "little") + data[8:],
    "no JSON": lambda data: data[:8] + b"x" + data[9:],
    "another shape": _header(lambda h: h["t0"].update(shape=[2**40, 2**40])),
    "a negative size": _header(lambda h: h["t0"].update(shape=[-3, -5])),
    "offsets beyond the file": _header(lambda h: h["t2"].update(data_offsets=[2**40, 2**40 + 60])),
    "two tensors on one place": _header(lambda h: h["t0"].update(data_offsets=h["t1"]["data_offsets"])),
    "an unknown dtype": _header(lambda h: h["t0"].update(dtype="PICKLE")),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named(path, name):
    path.write_bytes(DAMAGED[name](path.read_bytes()))
    with pytest.raises(BundleError, match=r"a\.safetensors is damaged"):
        read_header(path)


def test_a_large_file_takes_no_memory(tmp_path):
    import tracemalloc

    save_file({"t": torch.from_numpy(np.ones(2**25, np.float16))}, tmp_path / "c.safetensors")
    tracemalloc.start()
    try:
        assert list(non_finite(tmp_path / "c.safetensors")) == []
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
