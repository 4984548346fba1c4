"""A vLLM server over HTTP, the app's own or one elsewhere: token ids to ``/pooling``, binary token states back."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import PrerequisiteError, RuntimeFault, RuntimeTimeout
from backend.runtimes.addresses import Address, resolve
from backend.runtimes.base import ForwardOptions, Runtime, RuntimeInfo, RuntimeSpec
from backend.runtimes.batching import token_budget_batches
from backend.runtimes.canary import CANARY_IDS, TOLERANCE, Canary, relative_difference
from backend.runtimes.vllm_compat import Spelling, server_spelling
from backend.runtimes.vllm_exchange import Unreachable
from backend.runtimes.vllm_http import Answer, Client, KnownAnswer
from backend.runtimes.vllm_process import VLLMProcess

if TYPE_CHECKING:
    from torch import Tensor

REQUEST_S = 120.0  # a total deadline: a read timeout alone lets a dribbling server hold a lane for minutes
TOKEN_BUDGET = 4096  # tokens in one request
_MAX_ROWS = 64  # the answer's metadata header grows with every prompt
_WIRE = {"float16": "<f2", "bfloat16": "<i2", "float32": "<f4"}  # numpy has no bfloat16: its bits, viewed as that later


class VLLMRuntime(Runtime):
    """Client of one or more equal servers. Calls share connections and may overlap."""

    def __init__(
        self, spec: RuntimeSpec, info: RuntimeInfo, client: Client, spelling: Spelling, server: VLLMProcess | None
    ) -> None:
        super().__init__(spec, info)
        self.server = server  # None: it runs elsewhere
        self._client = client
        self._spelling = spelling
        self._canary: Canary | None = None
        if server is not None:
            self.lost, self.log = server.lost, server.log
            # one that runs elsewhere is not ours to end, and its next good answer heals the lane
            self._canary = Canary(self._ask_canary, self._give_up, server=server)

    @classmethod
    def start(cls, spec: RuntimeSpec, *, log_dir: Path, stop: threading.Event | None = None) -> VLLMRuntime:
        """Start a server of its own and connect to it; raises as `VLLMProcess.start` and `connect` do."""
        server = VLLMProcess.start(spec, log_dir=log_dir, stop=stop)
        try:
            return cls.connect(spec, server=server)
        except BaseException:
            server.close()
            raise

    @classmethod
    def connect(cls, spec: RuntimeSpec, *, server: VLLMProcess | None = None, deadline_s: float = REQUEST_S) -> VLLMRuntime:
        """Find out what the servers serve; those that are down are left out as long as one answers.

        Raises:
            PrerequisiteError: nobody answers, the version is too old, model or adapter have other names there, or two
                servers answer differently.
            RuntimeFault: a server answers with something else than token states.
        """
        urls = [server.url] if server else spec.urls
        servers = [resolve(spec.name, url) for url in dict.fromkeys(urls)]  # once: a name must not lead elsewhere later
        several = len(servers) > 1
        met = [_meet(spec, address, deadline_s, skip_down=several) for address in servers]
        found = [each for each in met if each is not None]
        if not found:
            raise _all_down(spec.name, len(servers))
        for other in found[1:]:
            _require_equal(spec.name, found[0], other)
        # our own servers are watched by a thread; those elsewhere must prove themselves after a failure or silence
        known = None if server else _known_answer(spec, found[0])
        client = Client(spec.name, [each.address for each in found], deadline_s=deadline_s, known=known)
        info = RuntimeInfo(
            device=client.shown_url + (f" ({len(found)} of {len(servers)} servers)" if several else ""),
            dtype=spec.dtype,
            d_model=int(found[0].states.shape[1]),
            max_tokens=min(spec.max_tokens, *(each.limit for each in found)),
            has_adapter=spec.adapter is not None,
            versions=(("vllm", found[0].spelling.version),),
        )
        runtime = cls(spec, info, client, found[0].spelling, server)
        runtime._known = found[0].states
        return runtime

    def _forward(self, ids: Sequence[Sequence[int]], options: ForwardOptions) -> list[Tensor]:
        states: list[Tensor | None] = [None] * len(ids)
        batches = list(token_budget_batches([len(row) for row in ids], budget=TOKEN_BUDGET, most=_MAX_ROWS))
        payloads = [_request(self.spec, self._spelling, [ids[i] for i in batch], options) for batch in batches]
        for batch, answer in zip(batches, self._ask(payloads), strict=True):
            rows = _parse(self.spec, answer, [ids[i] for i in batch], options, d_model=self.info.d_model)
            for i, row in zip(batch, rows, strict=True):
                # the engine normalises in its own dtype; dividing once more in float32 would hide a toggle that failed
                states[i] = row.float() if options.normalize else row
        return [row for row in states if row is not None]

    def _distrust(self) -> None:
        self._client.doubt()

    def _ask(self, payloads: list[dict[str, object]]) -> list[Answer]:
        watched = nullcontext() if self._canary is None else self._canary.request()
        try:
            with watched:
                return self._client.pool(payloads)
        except RuntimeTimeout as error:
            self._give_up(error.what)
            raise

    def _ask_canary(self, deadline_s: float) -> Tensor:
        answer = self._client.pool([_known_request(self.spec, self._spelling)], deadline_s=deadline_s)[0]
        return _parse(self.spec, answer, [CANARY_IDS], _known_options(self.spec), d_model=self.info.d_model)[0]

    def _give_up(self, reason: str) -> None:
        """End a server of our own that hangs or answers wrongly; requests under way fail at once."""
        if self.server is not None:
            self.lost_reason = self.lost_reason or reason
            self.server.give_up()

    def _close(self) -> None:
        if self._canary is not None:
            self._canary.close()
        self._client.close()
        if self.server is not None:
            self.server.close()


@dataclass(frozen=True, slots=True)
class _Met:
    """What one server turned out to be."""

    address: Address
    spelling: Spelling
    limit: int  # longest prompt, in tokens
    states: Tensor  # its answer to the known prompt, as the runtime is used: with the adapter if there is one


def _meet(spec: RuntimeSpec, address: Address, deadline_s: float, *, skip_down: bool) -> _Met | None:
    """Ask one server who it is; None where nobody listens and others might."""
    with closing(Client(spec.name, [address], deadline_s=deadline_s)) as client:
        try:
            spelling = server_spelling(str(client.get_json("/version").get("version", "")))
        except Unreachable:
            if skip_down:
                return None
            raise
        limit = _check_models(spec, client.get_json("/v1/models"))
        question, options = _known_request(spec, spelling), _known_options(spec)
        first, again = (_parse(spec, client.pool([question])[0], [CANARY_IDS], options, d_model=None)[0] for _ in range(2))
        _require_same(spec.name, again, first)
        return _Met(address, spelling, limit, first)


def _known_request(spec: RuntimeSpec, spelling: Spelling) -> dict[str, object]:
    return _request(spec, spelling, [CANARY_IDS], _known_options(spec))


def _known_options(spec: RuntimeSpec) -> ForwardOptions:
    return ForwardOptions(lora=spec.adapter is not None)


def _known_answer(spec: RuntimeSpec, met: _Met) -> KnownAnswer:
    """Return what a server answered when it was met, to hold it against."""

    def check(answer: Answer) -> None:
        states = _parse(spec, answer, [CANARY_IDS], _known_options(spec), d_model=int(met.states.shape[1]))[0]
        _require_same(spec.name, states, met.states)

    return KnownAnswer(_known_request(spec, met.spelling), check)


def _require_same(name: str, states: Tensor, known: Tensor) -> None:
    """Compare answers to the known request; zeros and NaN are none."""
    difference = relative_difference(states, known)
    if not (difference <= TOLERANCE and bool(states.isfinite().all()) and float(states.float().norm()) > 0):
        raise RuntimeFault(
            f"{name}: a known request got another answer than before",
            found=f"{difference:.2g} of |h| apart",
            remedy="Nothing was scored. If another model is served there on purpose, unload the runtime and load it again.",
        )


def _require_equal(name: str, one: _Met, other: _Met) -> None:
    difference = relative_difference(other.states, one.states)
    if one.spelling.version != other.spelling.version or not difference <= TOLERANCE:
        raise PrerequisiteError(
            f"{name}: its servers are not equal",
            found=f"vLLM {one.spelling.version} and {other.spelling.version}, states {difference:.2g} of |h| apart",
            remedy="Serve the same model, adapter and version at every url, or make them runtimes of their own.",
        )


def _all_down(name: str, n: int) -> PrerequisiteError:
    return PrerequisiteError(
        f"{name}: no server answers at any of its {n} urls", remedy="Start one, or correct urls in bundle.toml."
    )


def _check_models(spec: RuntimeSpec, listing: Any) -> int:
    """Return the server's longest prompt in tokens, after checking that it serves both names."""
    cards = {card["id"]: card for card in listing.get("data", ()) if isinstance(card, dict) and "id" in card}
    wanted = [spec.remote_model, *([spec.remote_lora] if spec.adapter is not None else [])]
    missing = [name for name in wanted if name not in cards]
    if missing:
        raise PrerequisiteError(
            f"{spec.name}: the server does not serve {' and '.join(missing)}",
            found=", ".join(sorted(cards)) or "no model",
            remedy="Start it with the line that `python -m backend serve-command` prints.",
        )
    return int(cards[spec.remote_model].get("max_model_len") or spec.max_tokens)


def _request(
    spec: RuntimeSpec, spelling: Spelling, ids: Sequence[Sequence[int]], options: ForwardOptions
) -> dict[str, object]:
    lora = options.lora and spec.adapter is not None
    return {
        "model": spec.remote_lora if lora else spec.remote_model,
        "input": [list(row) for row in ids],
        "encoding_format": "bytes",  # binary rows, and a header that says shape and type of each
        "embed_dtype": _wire_dtype(spec, options),
        "endianness": "little",
        **spelling.request(normalize=options.normalize),
    }


def _wire_dtype(spec: RuntimeSpec, options: ForwardOptions) -> str:
    """Return the type that states cross in: two bytes, and the engine's own where it computes in two.

    Normalised states lie within 1, so float16 holds every element to 2^-11 of itself, whatever the engine computes in, and
    a norm to 5e-4. Raw ones keep the engine's type: bfloat16 reaches further than float16 does, and a server in float32 is
    one that somebody wants all digits of.
    """
    return "float16" if options.normalize else spec.dtype


def _parse(
    spec: RuntimeSpec, answer: Answer, ids: Sequence[Sequence[int]], options: ForwardOptions, *, d_model: int | None
) -> list[Tensor]:
    """Turn an answer into one tensor ``[n_tokens, d_model]`` a prompt; raises `RuntimeFault` on any mismatch."""
    import numpy as np
    import torch

    name, dtype = spec.name, _wire_dtype(spec, options)
    code = np.dtype(_WIRE[dtype])
    rows = sorted(answer.rows, key=lambda row: row.index)
    if [row.index for row in rows] != list(range(len(ids))):
        raise _contract(name, f"{len(rows)} results for {len(ids)} prompts")
    _require_tiles(name, answer)
    states = []
    for prompt, row in zip(ids, rows, strict=True):
        if row.embed_dtype != dtype or row.endianness != "little":
            raise _contract(name, f"values as {row.embed_dtype}, {row.endianness}-endian, asked for {dtype}, little-endian")
        if len(row.shape) != 2 or row.shape[0] != len(prompt) or d_model not in (None, row.shape[1]):
            raise _contract(name, f"a result of shape {list(row.shape)} for {len(prompt)} tokens of width {d_model or 'd'}")
        if row.end - row.start != code.itemsize * row.shape[0] * row.shape[1]:
            raise _contract(name, f"{len(answer.body)} bytes, row at {row.start} to {row.end}")
        values = np.frombuffer(answer.body, dtype=code, count=math.prod(row.shape), offset=row.start).reshape(row.shape)
        states.append(torch.from_numpy(values.copy()).view(getattr(torch, dtype)))
    return states


def _require_tiles(name: str, answer: Answer) -> None:
    """Check that rows lie side by side and are all there is: two prompts with one row's bytes would look right."""
    at = 0
    for row in sorted(answer.rows, key=lambda row: row.start):
        if row.start != at or row.end < at:
            raise _contract(name, f"{len(answer.body)} bytes, a row at {row.start} to {row.end} where {at} was due")
        at = row.end
    if at != len(answer.body):
        raise _contract(name, f"{len(answer.body)} bytes where the rows take {at}")


def _contract(name: str, found: str) -> RuntimeFault:
    return RuntimeFault(
        f"{name} broke the token contract: one row of hidden states per token",
        found=found,
        remedy="Check that server, base model and tokenizer belong together; nothing was scored.",
    )
