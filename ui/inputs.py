"""The Playground's widgets. Their state is in the address bar, except the text, which may be private."""

from collections.abc import Sequence
from itertools import islice

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.dataset import Example, GoldSlot, read_examples
from backend.errors import BackendError, InputError
from backend.inference import RuntimeRun
from backend.probe import Decoding
from backend.prompt import Prompt
from backend.runtimes.base import ForwardOptions, RuntimeSpec
from backend.schema import FunctionSchema, Slot, parse_tool_json
from ui.frame import Context, show_error

_CUSTOM = "custom function…"
_START_TEXT = "Fly me from Boston to Seattle next Friday"
_START_FUNCTION = "book_flight"
_MAX_EXAMPLES = 200
_TOOL = """{"type": "function", "function": {"name": "book_ferry", "parameters": {"type": "object",
 "properties": {"origin": {"type": "string"}, "destination": {"type": "string"}, "date": {"type": "string"}}}}}"""


def function_and_text(context: Context) -> tuple[FunctionSchema, str]:
    """Draw example picker, function picker and text box; raises `InputError` for a custom function that is none."""
    names = sorted(context.schemas)
    examples = _examples(str(context.bundle.examples), context.schemas) if context.bundle.examples else ()
    if "utterance" not in st.session_state:
        st.session_state["utterance"] = _START_TEXT if _START_FUNCTION in names else ""
    left, right = st.columns([1, 1])
    with left:
        start = names.index(_START_FUNCTION) if _START_FUNCTION in names else 0
        chosen = st.selectbox("Function", [*names, _CUSTOM], index=start, key="function", bind="query-params")
    with right:
        st.selectbox(
            "Example",
            examples,
            index=None,
            key="example",
            placeholder="choose one to fill in function and text",
            format_func=lambda example: f"{example.function}: {example.utterance}",
            on_change=_take_example,
        )
    schema = _custom() if chosen == _CUSTOM else context.schemas[chosen]
    text = st.text_area("Utterance", key="utterance", placeholder="Type or paste what somebody might say", height=90)
    return schema, text


def runtimes_and_decoding(context: Context) -> tuple[list[RuntimeSpec], str]:
    """Draw both pickers."""
    names = [spec.name for spec in context.bundle.runtimes]
    left, right = st.columns([3, 1])
    with left:
        chosen = st.pills(
            "Runtimes", names, selection_mode="multi", default=names[:1], key="runtimes", bind="query-params", wrap=True
        )
    with right:
        decoding = st.segmented_control(
            "Decoding", [str(d) for d in Decoding], default="upstream", required=True, key="decoding", bind="query-params"
        )
    return [context.bundle.runtime(name) for name in names if name in (chosen or ())], decoding


def toggled(key: str, *, default: bool = False) -> bool:
    """Return a toggle's value before it is drawn: its label tells what the answer turned out to be."""
    if key in st.session_state:
        return bool(st.session_state[key])
    return {"true": True, "false": False}.get(st.query_params.get(key, ""), default)


def toggles(place: DeltaGenerator, options: ForwardOptions, run: RuntimeRun | None) -> None:
    """Draw both toggles with the state they brought about."""
    norm = f", mean norm {run.norms.mean:.2f}" if run else ""
    place.toggle(f"L2 {'on' if options.normalize else 'off'}{norm}", key="normalize", bind="query-params")
    place.toggle(f"LoRA {'on' if options.lora else 'off'}", value=True, key="lora", bind="query-params")


def gold_of(context: Context, function: str, prompt: Prompt) -> tuple[GoldSlot, ...] | None:
    """Return the gold of the example that the text is, unchanged; None for any other text."""
    examples = _examples(str(context.bundle.examples), context.schemas) if context.bundle.examples else ()
    same = (e.gold for e in examples if e.function == function and e.utterance == prompt.utterance)
    return next(same, None)


@st.cache_data(show_spinner=False)
def _examples(path: str, _schemas: dict[str, FunctionSchema]) -> Sequence[Example]:
    from pathlib import Path

    try:
        return tuple(islice(read_examples(Path(path), _schemas), _MAX_EXAMPLES))
    except InputError:
        return ()  # `bundle verify` says what is wrong with the file; the playground works without examples


def _take_example() -> None:
    example = st.session_state["example"]
    if example is not None:
        st.session_state["function"] = example.function
        st.session_state["utterance"] = example.utterance


def _custom() -> FunctionSchema:
    """Draw the two ways to describe a function."""
    pasted, edited = "paste a tool's JSON", "edit slots in a table"
    way = st.segmented_control("Custom function", [pasted, edited], default=pasted, required=True, key="custom-way")
    if way == pasted:
        return parse_tool_json(st.text_area("Tool JSON", _TOOL, key="tool", height=120))
    name = st.text_input("Function name", "book_ferry", key="custom-name")
    start = pd.DataFrame({"slot": ["origin", "destination", "date"]})
    rows = st.data_editor(start, num_rows="dynamic", hide_index=True, key="custom-slots")
    slots = tuple(Slot(str(value).strip()) for value in rows["slot"] if value and str(value).strip())
    try:
        return FunctionSchema(name.strip(), slots)
    except BackendError as error:
        show_error(error)
        st.stop()
