"""Health: does each runtime do what it is asked, and what to do where it does not."""

import streamlit as st

from backend.health import check_spec
from backend.pool import State
from ui import frame
from ui.sheet import sheet


def main() -> None:
    """Draw the page."""
    context = frame.page("Health")
    st.caption(
        "Token contract, normalisation, LoRA and base weights of each runtime, compared with "
        f"{context.bundle.runtimes[0].name}. Checking loads what is not loaded yet."
    )
    results = st.session_state.setdefault("checks", {})
    for spec in context.bundle.runtimes:
        with st.container(border=True, key=f"health-{spec.name}"):
            left, right = st.columns([4, 1], vertical_alignment="center")
            loading = context.pool.status(spec).state is State.LOADING
            left.markdown(f"**{spec.name}** · {_summary(results.get(spec.name))}")
            if right.button("Check", key=f"check-{spec.name}", disabled=loading, width="stretch"):
                with st.spinner(f"Checking {spec.name}; loading an engine takes half a minute on two cores"):
                    results[spec.name] = check_spec(context.pool, context.bundle, context.probe, spec)
                st.rerun()
            if checks := results.get(spec.name):
                failed = [check for check in checks if not check.passed]
                for check in failed:
                    st.error(f"{check.name}: expected {check.expected}", icon=":material/error:")
                    st.code(f"{check.observed}\n{check.remedy}", language=None, wrap_lines=True)
                _table(checks)


def _summary(checks: list | None) -> str:
    if checks is None:
        return "not checked yet"
    passed = sum(check.passed for check in checks)
    return f"{passed} of {len(checks)} checks hold"


def _table(checks: list) -> None:
    rows = [
        {"check": f"{'✓' if c.passed else '✗'} {c.name}", "observed": c.observed, "expected": c.expected} for c in checks
    ]
    st.html(sheet(rows, key="checks"))


if __name__ == "__main__":
    main()
