"""The door: every page passes it before it draws or loads anything."""

import time

import streamlit as st

from backend import access
from backend.errors import PrerequisiteError

KEY = "admitted"  # of the session


def require() -> None:
    """Go on where the app listens on this machine alone, or where this session has given the token; else end the script."""
    if st.session_state.get(KEY) or not access.needs_token(st.get_option("server.address")):
        return
    st.title("Probe Parity")
    try:
        access.require_configured()
    except PrerequisiteError as error:
        st.code(str(error), language=None, wrap_lines=True)
        st.stop()
    with st.form("door", border=False, width=420):
        given = st.text_input("Token", type="password", help="Whoever runs this app has it.")
        asked = st.form_submit_button("Enter", type="primary")
    if asked and access.is_token(given):
        st.session_state[KEY] = True
        st.rerun()
    if asked:
        time.sleep(1)  # nobody tries a million
        st.error("That is not the token.", icon=":material/lock:")
    st.stop()
