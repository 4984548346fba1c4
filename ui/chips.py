"""One chip a runtime in the sidebar: where it stands, what it takes, why it failed, and a button to load or unload it."""

from html import escape

import streamlit as st

from backend.bundle import Bundle
from backend.pool import Pool, State, Status
from backend.runtimes.base import RuntimeSpec
from ui.theme import runtime_colour

_DOT = {State.IDLE: "○", State.LOADING: "◔", State.READY: "●", State.FAILED: "✕"}
_LOG_LINES = 40


def show(bundle: Bundle, pool: Pool) -> None:
    """Draw the chips; redraw every second only while a runtime loads."""
    loading = any(pool.status(spec).state is State.LOADING for spec in bundle.runtimes)

    @st.fragment(run_every=1 if loading else None)
    def chips() -> None:
        states = [pool.status(spec) for spec in bundle.runtimes]
        for index, (spec, status) in enumerate(zip(bundle.runtimes, states, strict=True)):
            _chip(index, spec, status, pool)
        used, budget = pool.memory()
        if budget is not None:
            st.caption(f"memory: about {_size(used)} of {_size(budget)} in use")
        if loading and not any(status.state is State.LOADING for status in states):
            st.rerun()  # the whole page: lanes can answer now

    chips()


def _chip(index: int, spec: RuntimeSpec, status: Status, pool: Pool) -> None:
    with st.container(key=f"runtime-{spec.name}", gap="xxsmall"):
        # not columns: they stack on a narrow screen
        row = st.container(horizontal=True, vertical_alignment="center", gap="small")
        row.html(
            f'<div style="font-size:.85rem;line-height:1.3;overflow-wrap:anywhere">'
            f'<span style="color:{runtime_colour(index)}">{_DOT[status.state]}</span> {escape(spec.name)}<br>'
            f'<small style="opacity:.7">{escape(_line(status))}</small></div>',
            width="stretch",
        )
        label = {State.IDLE: "Load", State.LOADING: "Cancel", State.READY: "Unload", State.FAILED: "Retry"}[status.state]
        if row.button(label, key=f"chip-{spec.name}", width=84):
            if status.state is not State.IDLE:
                pool.unload(spec)
            if status.state in (State.IDLE, State.FAILED):
                pool.request(spec)
            st.rerun()
        if status.state is State.LOADING and not status.waiting:
            st.progress(min(0.97, status.elapsed_s / status.expected_s))
        if status.error is not None or (status.log is not None and status.state is not State.IDLE):
            _details(spec, status)


def _line(status: Status) -> str:
    memory = f"~{_size(status.memory_bytes)}" if status.memory_bytes else "runs elsewhere"
    if status.state is State.LOADING:
        again = f", restart {status.restarts} of 3" if status.restarts else ""
        if status.waiting:
            return f"waits its turn, {status.elapsed_s:.0f} s{again}"
        return f"loading {status.elapsed_s:.0f} of about {status.expected_s:.0f} s{again}"
    if status.state is State.READY and status.info is not None:
        return f"ready · {status.info.device.removeprefix('http://127.0.0.1')} · {memory}"
    return f"{status.state} · {memory}"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def _details(spec: RuntimeSpec, status: Status) -> None:
    label = "Why, and the log" if status.error and status.log else "Why" if status.error else "Log"
    with st.popover(label, type="tertiary", key=f"log-{spec.name}"):
        if status.error is not None:
            st.code(str(status.error), language=None, wrap_lines=True)
        if status.log is not None and status.log.is_file():
            text = status.log.read_text(encoding="utf-8", errors="replace")
            st.caption(f"last lines of {status.log}")
            st.code("\n".join(text.splitlines()[-_LOG_LINES:]) or "empty so far", language=None, height=240)
            st.download_button("Download the log", text, file_name=status.log.name, key=f"download-{spec.name}")
