"""What a diagnosis is about: an example of a stored run, named in the address, or a text from the box."""

from dataclasses import dataclass

import streamlit as st

from backend.dataset import GoldSlot
from backend.errors import InputError
from backend.prompt import Prompt
from backend.schema import FunctionSchema, get_schema
from backend.scoring import decoded_gold
from backend.store import Store, example_of
from backend.store_path import default_store
from backend.stored_examples import Neighbours, first_example, neighbours
from ui import inputs
from ui.frame import Context
from ui.spans import plain


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, with gold where there is some."""

    prompt: Prompt
    gold: dict[str, tuple[str, str]] | None


def question(context: Context) -> Question | None:
    """Draw where the text comes from and return it; None for an empty box.

    Raises:
        BackendError: no such run or example, or text that cannot be used.
    """
    named = st.query_params.get("run")
    if named is not None:
        return _stored(context, named, st.query_params.get("example"))
    if st.button("Open the newest run", icon=":material/table:", key="newest"):
        _open_newest()
    schema, text = inputs.function_and_text(context)
    if not text.strip():
        return None
    prompt = context.probe.builder.build(schema, text)
    gold = inputs.gold_of(context, schema.name, prompt)
    return Question(prompt, _decoded(gold, prompt, context) if gold is not None else None)


def _stored(context: Context, named: str, example: str | None) -> Question:
    row = st.container(horizontal=True)
    # drawn before anything that can fail: a run that is gone must leave a way out
    if row.button("Paste a text instead", icon=":material/edit:", key="paste"):
        for name in ("run", "example"):
            st.query_params.pop(name, None)
        st.rerun()
    if not named.isdecimal() or len(named) > 9:
        raise InputError("The address names no run", found=named[:40], remedy="Open an example from the Evaluate page.")
    with Store(default_store()) as store:
        store.run(int(named))
        chosen = example if example is not None else first_example(store, int(named))
        if chosen is None:
            raise InputError("The run has no examples yet", found=f"run {named}", remedy="Wait for its first batch.")
        function, utterance, gold = example_of(store, int(named), chosen)
        beside = neighbours(store, int(named), chosen)
    schema: FunctionSchema = get_schema(context.schemas, function)
    with row:
        _steps(beside)
    with st.container(border=True, key="example-text"):
        st.html(plain(utterance))
        st.code(f"run {named}, example {chosen}, {function}", language=None, wrap_lines=True)
    return Question(context.probe.builder.build(schema, utterance), gold)


def _steps(beside: Neighbours) -> None:
    for label, key, target in (("Previous", "k", beside.previous), ("Next", "j", beside.next)):
        st.button(label, key=f"example-{key}", shortcut=key, disabled=target is None, on_click=_open, args=(target or "",))


def _open_newest() -> None:
    with Store(default_store()) as store:
        found = store.runs()
    if not found:
        raise InputError("No run yet", remedy="Start one on the Evaluate page.")
    st.query_params["run"] = str(found[0].id)
    st.rerun()


def _open(example: str) -> None:
    st.query_params["example"] = example


def _decoded(gold: tuple[GoldSlot, ...], prompt: Prompt, context: Context) -> dict[str, tuple[str, str]]:
    return decoded_gold(gold, prompt, context.probe.builder)
