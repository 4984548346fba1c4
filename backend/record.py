"""Writing a recording: every prompt of a dataset through every runtime, states in prompt order."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from backend.errors import InputError, PrerequisiteError, RuntimeFault
from backend.evaluation import read_windows
from backend.fingerprint import fingerprint
from backend.memory import budget_bytes
from backend.norms import token_norms
from backend.plan import Plan, share_passes
from backend.probe import Probe, SlotPrediction
from backend.prompt import Prompt
from backend.recording import FORMAT, MANIFEST, VERSION, predictions_name
from backend.runtimes.base import Engine, ForwardOptions, Runtime, RuntimeSpec
from backend.windows import Window

if TYPE_CHECKING:
    from torch import Tensor

_PART = 2**20  # bytes copied at a time
_BATCH = 64  # prompts in memory with their states


def record(plan: Plan, get: Callable[[RuntimeSpec], Runtime], out: Path) -> int:
    """Write a recording of what a plan runs and return the number of its prompts.

    The file appears whole or not at all. States are rounded to float16.

    Args:
        plan: dataset, runtimes and LoRA settings; both raw and normalised predictions are always recorded.
        get: makes a runtime live.
        out: the file.

    Raises:
        InputError: the dataset cannot be used, or holds no example.
        PrerequisiteError: the file cannot be written.
        RuntimeFault: a state does not fit into float16.
        BackendError: as runtimes do.
    """
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".recording-") as folder:
            members, manifest = _Writer(plan, get, Path(folder)).write()
            whole = Path(folder) / out.name
            _pack(whole, members, manifest)
            os.replace(whole, out)
    except OSError as error:
        raise PrerequisiteError(
            f"{out.name} cannot be written", found=str(error)[:160], remedy="Free disk space or name another file."
        ) from error
    return int(manifest["n_prompts"])


@dataclass(frozen=True, slots=True)
class _Member:
    """One file of the archive."""

    path: Path
    shape: tuple[int, ...] | None = None  # of an array; None: text
    dtype: str = ""


class _Writer:
    """Members as plain files in a folder, from which the archive is packed."""

    def __init__(self, plan: Plan, get: Callable[[RuntimeSpec], Runtime], folder: Path) -> None:
        self.plan, self.get, self.folder = plan, get, folder
        self.probe = plan.bundle.load_probe()
        self.arms: list[dict[str, Any]] = []
        self.lengths: list[int] = []

    def write(self) -> tuple[list[_Member], dict[str, Any]]:
        """Compute everything; return the members and the manifest."""
        d_model, max_tokens = 0, self.plan.bundle.max_tokens
        for number, names in enumerate(share_passes(self.plan.specs, budget_bytes())):
            specs = [spec for spec in self.plan.specs if spec.name in names]
            arms = [(spec, lora) for spec in specs for lora in self.plan.loras if spec.adapter is not None or not lora]
            first = len(self.arms)
            for spec, lora in arms:
                info = self.get(spec).info
                d_model, max_tokens = info.d_model, min(max_tokens, info.max_tokens)
                # a server's address means nothing later, and is nobody's business elsewhere
                device = "a vLLM server" if spec.engine is Engine.VLLM else info.device
                computed = {"dtype": info.dtype, "device": device, "versions": info.versions}
                self.arms.append({"runtime": spec.name, "lora": lora} | computed)
            for window in read_windows(self.plan, self.probe.builder):
                if number == 0:
                    self._prompts(window)
                for place, (spec, lora) in enumerate(arms, start=first):
                    self._arm(place, self.get(spec), lora, window.prompts)
        if not self.lengths:
            raise InputError("Nothing to record", found="no examples", remedy="Use another set.")
        return self._members(d_model), self._manifest(d_model, max_tokens)

    def _prompts(self, window: Window) -> None:
        with self._append("prompts.jsonl") as texts, self._append("ids.npy") as ids:
            for example, prompt, labels in zip(window.examples, window.prompts, window.labels, strict=True):
                gold = [
                    {"slot": g.slot, "chars": [g.chars.start, g.chars.end], "value": g.raw, "decoded": g.decoded}
                    for g in labels
                    if g.chars is not None
                ]
                texts.write(_line(_prompt_json(example.id, prompt, self.probe) | {"gold": gold}))
                ids.write(_bytes(prompt.ids, "<i4"))
                self.lengths.append(len(prompt.ids))

    def _arm(self, place: int, runtime: Runtime, lora: bool, prompts: Sequence[Prompt]) -> None:
        with ExitStack() as stack:
            states_file, norms_file = (stack.enter_context(self._append(f"{n}-{place}.npy")) for n in ("states", "norms"))
            answers = [stack.enter_context(self._append(predictions_name(place, normalized=n))) for n in (False, True)]
            for at in range(0, len(prompts), _BATCH):
                batch = prompts[at : at + _BATCH]
                states = runtime.forward([prompt.ids for prompt in batch], ForwardOptions(lora=lora))
                scores = self.probe.score_batch(batch, states)
                for file, normalized in zip(answers, (False, True), strict=True):
                    for slots in self.probe.predict_scored(batch, scores.normalized() if normalized else scores):
                        file.write(_line([_prediction_json(slot) for slot in slots]))
                for rows in states:
                    states_file.write(_float16(rows, runtime.spec.name))
                    norms_file.write(token_norms(rows).numpy().astype("<f4").tobytes())

    def _members(self, d_model: int) -> list[_Member]:
        total, starts = sum(self.lengths), [0, *accumulate(self.lengths)]
        with self._append("starts.npy") as file:
            file.write(_bytes(starts, "<i8"))
        arrays: list[tuple[str, tuple[int, ...], str]]
        arrays = [("ids.npy", (total,), "<i4"), ("starts.npy", (len(starts),), "<i8")]
        for place in range(len(self.arms)):
            arrays += [(f"states-{place}.npy", (total, d_model), "<f2"), (f"norms-{place}.npy", (total,), "<f4")]
        members = [_Member(self.folder / name, shape, dtype) for name, shape, dtype in arrays]
        return [*members, *(_Member(path) for path in sorted(self.folder.glob("*.jsonl")))]

    def _manifest(self, d_model: int, max_tokens: int) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "n_prompts": len(self.lengths),
            "d_model": d_model,
            "max_tokens": max_tokens,
            "dataset": self.plan.dataset.name,
            "fingerprint": fingerprint(self.plan.bundle, self.plan.specs, self.plan.dataset),
            "arms": self.arms,
        }

    def _append(self, name: str) -> IO[bytes]:
        return (self.folder / name).open("ab")


def _pack(whole: Path, members: Sequence[_Member], manifest: dict[str, Any]) -> None:
    digests = {}
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for member in members:
            sha = hashlib.sha256()
            with archive.open(zipfile.ZipInfo(member.path.name), "w", force_zip64=True) as target:
                for part in _parts(member):
                    target.write(part)
                    sha.update(part)
            digests[member.path.name] = sha.hexdigest()
            member.path.unlink()
        archive.writestr(zipfile.ZipInfo(MANIFEST), json.dumps(manifest | {"sha256": digests}, indent=1))


def _parts(member: _Member) -> Iterator[bytes]:
    if member.shape is not None:
        import numpy as np

        header = io.BytesIO()
        write: Any = np.lib.format.write_array_header_1_0  # untyped
        write(header, {"shape": member.shape, "fortran_order": False, "descr": member.dtype})
        yield header.getvalue()
    with member.path.open("rb") as file:
        while part := file.read(_PART):
            yield part


def _prompt_json(id: str, prompt: Prompt, probe: Probe) -> dict[str, Any]:
    return {
        "id": id,
        "function": prompt.function,
        "utterance": prompt.utterance,
        "slots": prompt.slot_names,
        "utterance_span": [prompt.utterance_span.start, prompt.utterance_span.end],
        "offsets": prompt.offsets,
        "query_positions": prompt.query_positions,
        "tokens": probe.builder.tokens(prompt.ids),
    }


def _prediction_json(slot: SlotPrediction) -> dict[str, Any]:
    margins = {n: v if v != float("inf") else None for n, v in (("start", slot.start_margin), ("end", slot.end_margin))}
    return {
        "slot": slot.slot,
        "present": slot.present,
        "null_logits": slot.null_logits,
        "pointer": [slot.pointer.start, slot.pointer.end],
        "pointer_value": slot.pointer_value,
        "char_span": [slot.char_span.start, slot.char_span.end],
        "start_score": slot.start_score,
        "end_score": slot.end_score,
        "start_margin": margins["start"],
        "end_margin": margins["end"],
    }


def _float16(rows: Tensor, runtime: str) -> bytes:
    half = rows.half()
    if not bool(half.isfinite().all()):
        raise RuntimeFault(
            f"A state of {runtime} does not fit into float16",
            found=f"largest value {float(rows.abs().max()):.3g}",
            remedy="Such a runtime cannot be recorded, nor served in FP16.",
        )
    data: bytes = half.numpy().astype("<f2").tobytes()
    return data


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _bytes(values: Sequence[int], code: str) -> bytes:
    import numpy as np

    return np.array(values, dtype=code).tobytes()
