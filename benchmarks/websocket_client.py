"""A Streamlit session over its websocket, as a browser holds one, without the browser."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from io import BytesIO
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pyarrow as pa
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

ANSWER_S = 240.0
# where a widget's state goes, by the type of its value
_FIELDS = {bool: "bool_value", str: "string_value", int: "int_value"}


class Session:
    """One session; what its last run drew is in ``elements``.

    Args:
        url: of the app, ``http://127.0.0.1:8501``.
        page: name of the page, empty for the first one.
        query: of the address, without the question mark.
        host: name by which the app is asked, by default that of the url.
        origin: of the page that asks, by default the url.

    Raises:
        websockets.exceptions.InvalidStatus: the server refuses the handshake.
    """

    def __init__(self, url: str, *, page: str = "", query: str = "", host: str = "", origin: str = "") -> None:
        self.elements: dict[tuple[int, ...], Element] = {}
        self._page, self._query, self._state = page, query, {}
        at = urlsplit(url)
        self._socket = connect(
            f"ws://{host or at.netloc}/_stcore/stream",
            sock=socket.create_connection((at.hostname or "", at.port or 80), timeout=ANSWER_S),
            subprotocols=["streamlit"],  # type: ignore[list-item]
            additional_headers={"Origin": origin or url},
            max_size=None,
            open_timeout=ANSWER_S,
            proxy=None,
            legacy=True,
            ping_interval=None,
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._socket.close()

    def run(self, **widgets: bool | int | str) -> None:
        """Run the page with widgets set, by key, and wait until it is drawn."""
        ids = {key_of(found.id): found.id for found in self.widgets()}
        for key, value in widgets.items():
            self._state[ids[key]] = value
        message = BackMsg()
        message.rerun_script.query_string = self._query
        message.rerun_script.page_name = self._page
        for name, value in self._state.items():
            setattr(message.rerun_script.widget_states.widgets.add(id=name), _FIELDS[type(value)], value)
        self._socket.send(message.SerializeToString())
        while not self._finished(ForwardMsg.FromString(self._socket.recv(timeout=ANSWER_S))):
            pass

    def widget(self, key: str) -> Any:
        """Return the message of one widget; raises `KeyError`."""
        found = {key_of(widget.id): widget for widget in self.widgets()}
        return found[key]

    def html(self) -> str:
        """Return all HTML that was drawn."""
        return "\n".join(element.html.body for element in self.elements.values() if element.WhichOneof("type") == "html")

    def texts(self) -> list[str]:
        """Return all code, Markdown and messages that were drawn."""
        kinds = ("code", "code_text"), ("markdown", "body"), ("alert", "body")
        return [getattr(getattr(e, kind), name) for e in self.elements.values() for kind, name in kinds if e.HasField(kind)]

    def exceptions(self) -> list[str]:
        """Return tracebacks that were drawn."""
        return [element.exception.message for element in self.elements.values() if element.HasField("exception")]

    def options(self) -> dict[str, tuple[str, ...]]:
        """Return what lists and pills offer, by key."""
        return {key_of(w.id): tuple(map(_label, w.options)) for w in self.widgets() if hasattr(w, "options")}

    def tables(self) -> list[pd.DataFrame]:
        """Return the tables in drawn order; a table without selection has no key."""
        drawn = [
            element.dataframe.arrow_data.data
            for _, element in sorted(self.elements.items())
            if element.HasField("dataframe")
        ]
        return [pa.ipc.open_stream(BytesIO(data)).read_pandas() for data in drawn]

    def widgets(self) -> Iterator[Any]:
        """Yield the messages of all widgets that were drawn."""
        for element in self.elements.values():
            drawn = getattr(element, element.WhichOneof("type") or "empty")
            if getattr(drawn, "id", ""):
                yield drawn

    def _finished(self, message: ForwardMsg) -> bool:
        kind = message.WhichOneof("type")
        if kind == "new_session":
            self.elements.clear()
        elif kind == "delta" and message.delta.HasField("new_element"):
            self.elements[tuple(message.metadata.delta_path)] = message.delta.new_element
        return kind == "script_finished" and message.script_finished in (
            ForwardMsg.FINISHED_SUCCESSFULLY,
            ForwardMsg.FINISHED_WITH_COMPILE_ERROR,
        )


def _label(option: Any) -> str:
    return option if isinstance(option, str) else str(option.content)


def key_of(identity: str) -> str:
    """Return the key in a widget's id, ``$$ID-digest-key``."""
    return identity.split("-", 2)[-1]
