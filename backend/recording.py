"""One file that holds what runtimes computed for some prompts: ids, float16 states, norms and predictions.

A zip archive whose members are stored uncompressed, so that states are mapped from the file and never read whole. Reading
needs numpy alone: no torch, no transformers, no pickle. ``manifest.json`` names version, arms and the SHA-256 of every
other member; ``prompts.jsonl`` has one prompt a line; ``ids.npy`` and ``starts.npy`` hold the token ids of all prompts end
to end; each arm has ``states-K.npy`` (float16), ``norms-K.npy`` (float32, of the states before rounding) and predictions as
JSON lines for raw and normalised states.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend import strict_json
from backend.errors import BundleError, InputError
from backend.probe import SlotPrediction
from backend.prompt import Prompt, Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "probe-parity recording"
VERSION = 1
MANIFEST = "manifest.json"
_LOCAL_HEADER = 30  # bytes of a zip member's local header before its name


@dataclass(frozen=True, slots=True)
class Arm:
    """One runtime with or without LoRA."""

    runtime: str
    lora: bool
    dtype: str  # it computed in
    device: str
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RecordedGold:
    """One slot that is present in gold."""

    slot: str
    chars: Span
    value: str  # the raw label
    decoded: str  # text of the gold tokens


@dataclass(frozen=True, slots=True)
class RecordedPrompt:
    """One prompt as it was asked."""

    id: str
    prompt: Prompt
    tokens: tuple[str, ...]  # the vocabulary's spelling of each id
    gold: tuple[RecordedGold, ...]


class Recording:
    """An opened recording. Reading is safe from several threads."""

    def __init__(self, path: Path) -> None:
        """Open and check a file; raises `BundleError` where it is no recording, of another version, or damaged."""
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                manifest = strict_json.loads(archive.read(MANIFEST), source=f"{path.name}: {MANIFEST}")
                self._places = {info.filename: _place(path, info) for info in archive.infolist()}
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            raise _damaged(path, str(error)[:120] or type(error).__name__) from error
        except InputError as error:
            raise _damaged(path, error.found) from error
        if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
            raise _damaged(path, f"not {FORMAT} version {VERSION}")
        self._check_digests(manifest["sha256"])
        self.manifest: dict[str, Any] = manifest
        self.d_model = int(manifest["d_model"])
        self.max_tokens = int(manifest["max_tokens"])
        self.arms = tuple(
            Arm(a["runtime"], a["lora"], a["dtype"], a["device"], tuple((n, v) for n, v in a["versions"]))
            for a in manifest["arms"]
        )
        self._ids = self._array("ids.npy")
        self._starts = self._array("starts.npy")
        self._states = [self._array(f"states-{k}.npy") for k in range(len(self.arms))]
        self._norms = [self._array(f"norms-{k}.npy") for k in range(len(self.arms))]

    def __len__(self) -> int:
        return len(self._starts) - 1

    def arm(self, runtime: str, *, lora: bool) -> int:
        """Return the place of an arm; raises `InputError` naming those there are."""
        for place, arm in enumerate(self.arms):
            if (arm.runtime, arm.lora) == (runtime, lora):
                return place
        known = ", ".join(f"{arm.runtime} with LoRA {'on' if arm.lora else 'off'}" for arm in self.arms)
        raise InputError(
            f"{self.path.name} does not hold this runtime",
            found=f"{runtime} with LoRA {'on' if lora else 'off'}",
            remedy=f"It holds {known}.",
        )

    def find(self, ids: Sequence[int]) -> int:
        """Return the place of the prompt with these token ids; raises `InputError` where it was not recorded."""
        place = self._by_ids.get(_key(ids))
        if place is None:
            raise InputError(
                "This prompt was not recorded",
                found=f"{len(ids)} token ids that {self.path.name} does not hold",
                remedy="Choose one of its examples, or load a live runtime.",
            )
        return place

    def states(self, arm: int, place: int) -> NDArray[np.float16]:
        """Raw states ``[n_tokens, d_model]`` of a prompt, float16, a read-only view of the file."""
        rows: NDArray[np.float16] = self._states[arm][self._starts[place] : self._starts[place + 1]]
        return rows

    def norms(self, arm: int, place: int) -> NDArray[np.float32]:
        """L2 norm of each raw state, ``[n_tokens]``, as it was before rounding to float16."""
        rows: NDArray[np.float32] = self._norms[arm][self._starts[place] : self._starts[place + 1]]
        return rows

    def prompt(self, place: int) -> RecordedPrompt:
        """Return a prompt with its gold."""
        found = json.loads(self._lines("prompts.jsonl")[place])
        prompt = Prompt(
            function=found["function"],
            utterance=found["utterance"],
            slot_names=tuple(found["slots"]),
            ids=tuple(self._ids[self._starts[place] : self._starts[place + 1]].tolist()),
            utterance_span=Span(*found["utterance_span"]),
            offsets=tuple((a, b) for a, b in found["offsets"]),
            query_positions=tuple(found["query_positions"]),
        )
        gold = tuple(RecordedGold(g["slot"], Span(*g["chars"]), g["value"], g["decoded"]) for g in found["gold"])
        return RecordedPrompt(found["id"], prompt, tuple(found["tokens"]), gold)

    def predictions(self, arm: int, place: int, *, normalized: bool) -> tuple[SlotPrediction, ...]:
        """Return what the heads read from a prompt's states when they were recorded."""
        found = json.loads(self._lines(predictions_name(arm, normalized=normalized))[place])
        return tuple(
            SlotPrediction(
                slot=p["slot"],
                present=p["present"],
                null_logits=(p["null_logits"][0], p["null_logits"][1]),
                pointer=Span(*p["pointer"]),
                pointer_value=p["pointer_value"],
                char_span=Span(*p["char_span"]),
                start_score=p["start_score"],
                end_score=p["end_score"],
                start_margin=_margin(p["start_margin"]),
                end_margin=_margin(p["end_margin"]),
            )
            for p in found
        )

    @cached_property
    def _by_ids(self) -> dict[bytes, int]:
        starts = self._starts.tolist()
        return {_key(self._ids[a:b].tolist()): place for place, (a, b) in enumerate(pairwise(starts))}

    @cached_property
    def _texts(self) -> dict[str, list[bytes]]:
        return {}

    def _lines(self, member: str) -> list[bytes]:
        if member not in self._texts:
            start, size = self._places[member]
            with self.path.open("rb") as file:
                file.seek(start)
                self._texts[member] = file.read(size).split(b"\n")
        return self._texts[member]

    def _array(self, member: str) -> NDArray[Any]:
        """Map a stored ``.npy`` member from the file."""
        import numpy as np

        start, _ = self._places[member]
        with self.path.open("rb") as file:
            file.seek(start)
            npy: Any = np.lib.format  # untyped
            npy.read_magic(file)
            shape, fortran, dtype = npy.read_array_header_1_0(file)
            if fortran or dtype.hasobject:
                raise _damaged(self.path, f"{member} is no plain array")
            if 0 in shape:
                return np.empty(shape, dtype)
            return np.memmap(self.path, dtype=dtype, mode="r", offset=file.tell(), shape=shape)

    def _check_digests(self, expected: dict[str, str]) -> None:
        missing = sorted(set(expected) - set(self._places))
        if missing:
            raise _damaged(self.path, f"no {missing[0]}")
        with self.path.open("rb") as file:
            for member, digest in expected.items():
                start, left = self._places[member]
                file.seek(start)
                sha = hashlib.sha256()
                while left and (part := file.read(min(left, 2**20))):
                    sha.update(part)
                    left -= len(part)
                if sha.hexdigest() != digest:
                    raise _damaged(self.path, f"{member} is not what was written")


def predictions_name(arm: int, *, normalized: bool) -> str:
    """Return the member that holds an arm's predictions."""
    return f"predictions-{arm}-{'normalized' if normalized else 'raw'}.jsonl"


def _place(path: Path, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Return where a stored member's bytes begin in the file, and how many there are."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile(f"{info.filename} is compressed")
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER)
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return info.header_offset + _LOCAL_HEADER + name + extra, info.file_size


def _key(ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(array("i", ids).tobytes(), digest_size=16).digest()


def _margin(value: float | None) -> float:
    return float("inf") if value is None else value


def _damaged(path: Path, found: str) -> BundleError:
    return BundleError(
        f"{path.name} is not a recording that can be used",
        found=found,
        remedy="Write it again with `python -m backend record`.",
    )
