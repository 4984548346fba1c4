"""The seal of a bundle: `manifest.json` lists path, size and SHA-256 of each file that it uses from its own folder.

A bundle that was measured is evidence for a release; the seal says whether what is loaded today is what was measured. It is
no signature: whoever can write the bundle can seal it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from backend import strict_json
from backend.errors import BackendError, BundleError, InputError
from backend.file_stamps import note, recall, stamp

NAME = "manifest.json"
FORMAT = "probe-parity bundle"
VERSION = 1
_SMALL = 2**20  # bytes; smaller files are read again each time
_REMEDY = "Restore it, or seal the bundle again if the change is yours: `python -m backend bundle seal DIR`."


def write_manifest(folder: Path, files: Iterable[Path]) -> Path:
    """Seal files of a folder and return the manifest's path.

    Raises:
        InputError: one of them cannot be read, or the manifest cannot be written.
    """
    path = folder / NAME
    try:
        entries = {
            file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": _sha256(file, again=True)}
            for file in sorted(files)
        }
        text = json.dumps({"format": FORMAT, "version": VERSION, "files": entries}, indent=1)
        partial = path.with_name(f"{NAME}.partial")
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise InputError("The bundle cannot be sealed", found=str(error)[:160], remedy="Check permissions.") from error
    return path


def check_manifest(folder: Path, files: Iterable[Path], *, again: bool = False) -> list[BackendError]:
    """Return every difference between a folder and its manifest; none where it has no manifest.

    Args:
        folder: of the bundle.
        files: those that the bundle uses from its own folder.
        again: hash large files too that were hashed before and have kept their stamp.
    """
    if not (folder / NAME).exists():
        return []
    try:
        sealed = _read(folder)
    except InputError as error:
        return [BundleError(f"{NAME} cannot be used", found=f"{error.what} {error.found}".strip(), remedy=_REMEDY)]
    used = {file.relative_to(folder).as_posix() for file in files}
    found: list[BackendError] = [
        BundleError(f"{NAME} does not list a file that the bundle uses", found=name, remedy=_REMEDY)
        for name in sorted(used - set(sealed))
    ]
    for name, (size, digest) in sealed.items():
        said = _difference(folder / name, size, digest, again=again)
        if said:
            found.append(BundleError(f"{name} is not the file that was sealed", found=said, remedy=_REMEDY))
    return found


def _read(folder: Path) -> dict[str, tuple[int, str]]:
    content = strict_json.load(folder / NAME)
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise InputError(f"not {FORMAT} version {VERSION}")
    files = content.get("files")
    if not isinstance(files, dict):
        raise InputError("no files")
    return {name: _entry(name, entry) for name, entry in files.items()}


def _entry(name: str, entry: Any) -> tuple[int, str]:
    path = PurePosixPath(name)
    size, digest = (entry.get("size"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
    if path.is_absolute() or ".." in path.parts or type(size) is not int or not isinstance(digest, str):
        raise InputError("a wrong entry", found=f"{name}: {entry!r}"[:120])
    return size, digest


def _difference(path: Path, size: int, digest: str, *, again: bool) -> str:
    try:
        found = path.stat().st_size
        if found != size:
            return f"{found} bytes, {size} were sealed"
        now = _sha256(path, again=again)
    except OSError as error:
        return error.strerror or str(error)
    return "" if now == digest else f"sha256 {now[:12]}…, {digest[:12]}… was sealed"


def _sha256(path: Path, *, again: bool) -> str:
    key = "sha256 " + stamp([path])
    known = recall(key) if not again and path.stat().st_size >= _SMALL else None
    if known is not None:
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if path.stat().st_size >= _SMALL:
        note(key, digest)
    return digest
