"""Ways to damage a file: bytes, structure of JSON, other kinds of file under its name, code and pickles put beside it."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import random
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

_VALUES = (b"null", b'"x/y"', b"-1", b"0", b"1e999", b"[]", b"{}", b"true", b'"\\ud800"', b"9" * 20, b'"../../x"', b"NaN")
_VALUES += (
    b"Infinity",
    b"9" * 5000,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'"' + b"x" * 10**6 + b'"',
)
_VALUE = re.compile(rb'(?<=[:=] )("[^"\n]*"|[\d.]+|true|false|null)')
_KEY = re.compile(rb'"[A-Za-z_]\w*": ?')


class Canary:
    """A pickle that leaves a file behind where it is read as more than data."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def in_bytes(path: Path, rng: random.Random, canary: Path) -> str:
    """Flip, cut, drop, insert or repeat bytes, or paste a piece of another place."""
    data = bytearray(path.read_bytes() or b"x")
    at = rng.randrange(len(data))
    kind = rng.choice(("flip", "cut", "insert", "drop", "splice", "nothing left"))
    match kind:
        case "flip":
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        case "cut":
            del data[at:]
        case "insert":
            data[at:at] = rng.choice(
                (rng.randbytes(rng.randint(1, 20)), b"\x00" * 50, b"\xed\xa0\x80", b"\r", "\u2028".encode())
            )
        case "drop":
            del data[at : at + rng.randint(1, 40)]
        case "splice":
            start = rng.randrange(len(data))
            data[at:at] = data[start : start + rng.randint(1, 5000)]
        case _:
            data.clear()
    path.write_bytes(data)
    return kind


def in_structure(path: Path, rng: random.Random, canary: Path) -> str:
    """Put another value in place of one, or rename, repeat or drop a key; bytes where it has neither."""
    data = path.read_bytes()
    values, keys = (list(pattern.finditer(data[:400_000])) for pattern in (_VALUE, _KEY))
    if not values or not keys:
        return in_bytes(path, rng, canary)
    value, key = rng.choice(values), rng.choice(keys)
    kind = rng.choice(("value", "value", "key dropped", "key twice", "key renamed"))
    match kind:
        case "value":
            new = data[: value.start()] + rng.choice(_VALUES) + data[value.end() :]
        case "key dropped":
            new = data[: key.start()] + data[key.end() :]
        case "key twice":
            new = data[: key.start()] + key[0] + b"1, " + data[key.start() :]
        case _:
            new = data[: key.start()] + b'"other": ' + data[key.end() :]
    path.write_bytes(new)
    return kind


def in_kind(path: Path, rng: random.Random, canary: Path) -> str:
    """Put something else under the file's name: archive, pickle, link, folder, another file of the bundle, nothing."""
    data = path.read_bytes()
    kind = rng.choice(("gzip", "zip", "pickle", "link out", "link to itself", "folder", "swapped", "renamed"))
    path.unlink()
    match kind:
        case "gzip":
            path.write_bytes(gzip.compress(data))
        case "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(path.name, data)
        case "pickle":
            path.write_bytes(pickle.dumps(Canary(canary), protocol=rng.choice((0, 2, 5))))
        case "link out":
            path.symlink_to(rng.choice(("/etc/passwd", "/dev/zero", "/proc/self/mem")))
        case "link to itself":
            path.symlink_to(path.name)
        case "folder":
            path.mkdir()
        case "swapped":
            others = [other for other in path.parent.iterdir() if other.is_file()]
            path.write_bytes(rng.choice(others).read_bytes() if others else b"")
        case _:
            path.with_name(f"other-{path.name}").write_bytes(data)
    return kind


_CODE = """import os
try:
    os.mkdir({canary!r})
except OSError:
    pass
class Mine: pass
"""
_ASKS = (
    {"auto_map": {name: "mine.Mine" for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")}},
    {"_attn_implementation": "owner/kernel"},
    {"attn_implementation": {"": "mine/kernel"}},
    {"quantization_config": {"quant_method": "eetq"}},
    {"trust_remote_code": True},
    {"custom_pipelines": {"x": {"impl": "mine.Mine"}}},
    {"megatron_config": {"x": 1}, "megatron_core": "mine"},
    {"tokenizer_class": "mine.Mine"},
    {"transformers_weights": "../mine.safetensors"},
)
_PICKLES = (
    "pytorch_model.bin",
    "adapter_model.bin",
    "adapter_model.pt",
    "model.pt",
    "training_args.bin",
    "tokenizer.model",
)


def with_code(path: Path, rng: random.Random, canary: Path) -> str:
    """Ask for code that lies beside the file, or leave pickles under names that libraries know."""
    for name in ("mine.py", "modeling_mine.py", "__init__.py", "conftest.py", "sitecustomize.py"):
        path.with_name(name).write_text(_CODE.format(canary=str(canary)))
    if path.suffix == ".json":
        ask = rng.choice(_ASKS)
        content = json.loads(path.read_bytes())
        path.write_text(json.dumps(content | ask if isinstance(content, dict) else [ask]))
        return f"asks for {next(iter(ask))}"
    for name in _PICKLES:
        path.with_name(name).write_bytes(pickle.dumps(Canary(canary)))
    if rng.random() < 0.7:
        path.unlink()
    return "pickles beside it"


WAYS = (in_bytes, in_bytes, in_structure, in_structure, in_kind, with_code)


def restore(folder: Path, whole: Path) -> None:
    """Make a folder equal to a copy again, links and new files included."""
    names = {path.relative_to(whole) for path in whole.rglob("*")}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.relative_to(folder) not in names:
            path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)
    for name in names:
        source, target = whole / name, folder / name
        if source.is_dir():
            target.mkdir(exist_ok=True)
        elif target.is_symlink() or target.is_dir() or not target.exists() or target.read_bytes() != source.read_bytes():
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            target.unlink(missing_ok=True)
            shutil.copyfile(source, target)
