"""What the safetensors files of a folder hold; a damaged file is a `BundleError`, wherever it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import BundleError
from backend.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import Tensor


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor, from headers alone; raises `BundleError` where there is no file of weights."""
    files = sorted(folder.glob("*.safetensors"))
    shapes = {entry.name: entry.shape for path in files for entry in read_header(path)}
    if not shapes:
        raise BundleError("No weights", found=f"no .safetensors in {folder.name}", remedy="Save them as safetensors.")
    return shapes


def read_tensors(folder: Path, wanted: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[str, Tensor]]:
    """Yield the wanted tensors by name, ``[...]`` as stored, one in memory at a time; raises `BundleError`."""
    for file, name in _names(folder):
        if wanted(name):
            yield name, file.get_tensor(name)


def _names(folder: Path) -> Iterator[tuple[Any, str]]:
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        read_header(path)  # what the library does not check before it maps the file
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  # safe_open has no __iter__
                    yield file, name
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{path.name} is damaged", found=str(error)[:120], remedy="Copy it again.") from error
