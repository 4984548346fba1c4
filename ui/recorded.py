"""The Playground of a recording: its examples, both toggles, lanes, slots and norms, marked *Recorded* throughout."""

from html import escape
from pathlib import Path

import pandas as pd
import streamlit as st

from backend import recorded
from backend.answers import answer_text
from backend.inference import RuntimeRun
from backend.recording import RecordedPrompt, Recording
from backend.runtimes.base import ForwardOptions
from backend.story import TRAINED, RecordedStep, recorded_story
from ui import story
from ui.charts import norms_by_token
from ui.markdown import as_written
from ui.spans import lane
from ui.theme import MUTED, runtime_colour, tag


def playground(path: Path) -> None:
    """Draw the page; raises `BundleError` for a file that is no recording."""
    recording = _open(str(path), path.stat().st_mtime if path.exists() else 0.0)
    prompts, names = recorded.prompts(recording), recorded.runtimes(recording)
    _offer(recording)
    place = st.selectbox(
        "Recorded example",
        range(len(prompts)),
        format_func=lambda at: f"{prompts[at].prompt.function}: {prompts[at].prompt.utterance}",
        key="recorded-example",
        bind="query-params",
    )
    chosen = st.pills(
        "Runtimes",
        names,
        selection_mode="multi",
        default=names,
        format_func=as_written,
        key="recorded-runtimes",
        wrap=True,
    )
    with st.container(horizontal=True):
        normalize = st.toggle("L2", key="recorded-normalize", bind="query-params")
        lora = st.toggle("LoRA", value=True, key="recorded-lora", bind="query-params")
    options = ForwardOptions(normalize=normalize, lora=lora)
    runs = recorded.replay(recording, place, [name for name in names if name in (chosen or ())], options)
    if not runs:
        st.info("Choose at least one runtime.", icon=":material/memory:")
        return
    prompt = prompts[place]
    _tale(recording, place, options)
    for run in runs:
        _lane(recording, names.index(run.runtime), run, prompt)
    st.caption("Dashed outline: gold spans of this example.")
    st.dataframe(_table(runs, prompt), hide_index=True, key="recorded-slots")
    st.subheader("Norms of the hidden states")
    st.plotly_chart(norms_by_token([(names.index(run.runtime), run) for run in runs], prompt.tokens), key="recorded-norms")


@st.cache_data(show_spinner=False, max_entries=4)
def _story(_recording: Recording, path: str) -> tuple[RecordedStep, ...]:
    del path  # tells recordings apart
    return recorded_story(_recording)


def _offer(recording: Recording) -> None:
    """Draw a button for each failure that the recording shows."""
    steps = _story(recording, str(recording.path))
    if not steps:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("**Failures, one click each:**")
        for number, step in enumerate(steps):
            st.button(step.failure.name, key=f"story-{number}", on_click=_tell, args=(steps, number))


def _tale(recording: Recording, place: int, options: ForwardOptions) -> None:
    """Draw the story's step, while its prompt and toggles are the chosen ones."""
    steps, number = _story(recording, str(recording.path)), st.session_state.get("story")
    if number is None or number >= len(steps):
        return
    step = steps[number]
    if (place, options) != (step.place, step.failure.options):
        return
    name = recorded.runtimes(recording)[0]
    healthy, broken = (recorded.replay(recording, place, [name], o)[0] for o in (TRAINED, options))
    failures = [each.failure for each in steps]
    story.box(failures, number, (healthy, broken), tell=lambda to: _tell(steps, to), end=_end)


def _tell(steps: tuple[RecordedStep, ...], number: int) -> None:
    step = steps[number]
    st.session_state.update(
        {
            "story": number,
            "recorded-example": step.place,
            "recorded-normalize": step.failure.normalize,
            "recorded-lora": step.failure.lora,
        }
    )


def _end() -> None:
    st.session_state.update({"story": None, "recorded-normalize": False, "recorded-lora": True})


def notice(path: Path) -> None:
    """Say what is shown, on every page."""
    st.html(f"{tag('Recorded')} <span style='{MUTED}'>{escape(path.name)}: no model is loaded, nothing is computed.</span>")


@st.cache_resource(show_spinner="Opening the recording", max_entries=4)
def _open(path: str, changed: float) -> Recording:
    del changed  # a file written again is another one
    return Recording(Path(path))


def _lane(recording: Recording, index: int, run: RuntimeRun, prompt: RecordedPrompt) -> None:
    arm = recording.arms[recording.arm(run.runtime, lora=run.options.lora)]
    with st.container(border=True, key=f"lane-{run.runtime}"):
        details = f"mean norm {run.norms.mean:.2f} · {arm.dtype} · {arm.device}"
        st.html(
            f"<div style='font-size:.85rem'><span style='color:{runtime_colour(index)}'>●</span> "
            f"<b>{escape(run.runtime)}</b> {tag('Recorded')} <span style='{MUTED}'>{escape(details)}</span></div>"
        )
        st.html(lane(prompt.prompt.utterance, run.slots, {gold.slot: gold.chars for gold in prompt.gold}))


def _table(runs: tuple[RuntimeRun, ...], prompt: RecordedPrompt) -> pd.DataFrame:
    """Return gold and answers, right where they equal the text of the gold tokens."""
    gold = {label.slot: label.decoded for label in prompt.gold}
    rows = []
    for place, slot in enumerate(runs[0].slots):
        row = {"slot": slot.slot, "gold": answer_text(gold.get(slot.slot))}
        for run in runs:
            found = run.slots[place]
            right = (found.value or "") == gold.get(slot.slot, "")
            row[run.runtime] = f"{'✓' if right else '✗'} {answer_text(found.value)}"
            row[f"{run.runtime} margin"] = f"{found.null_margin:+.2f}"
        rows.append(row)
    return pd.DataFrame(rows)
