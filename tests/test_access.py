"""Nobody from elsewhere: names of the host, other origins, the token, and what an address may say."""

import pytest
from streamlit import config
from streamlit.testing.v1 import AppTest
from websockets.exceptions import InvalidStatus

from backend import access
from backend.errors import PrerequisiteError
from benchmarks.curated_texts import markup
from benchmarks.websocket_client import Session, key_of
from tests.browser.serving import ROOT, serve

pytestmark = pytest.mark.timeout(280)
PAGES = ("app.py", "pages/Evaluate.py", "pages/Diagnose.py", "pages/Norms.py", "pages/Health.py")
START_TEXT = "Fly me from Boston to Seattle next Friday"
TOKEN = "a token of 22 letters."


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("store")) as served:
        yield served


@pytest.fixture
def elsewhere():
    before = config.get_option("server.address")
    config.set_option("server.address", "0.0.0.0")
    yield
    config.set_option("server.address", before)


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_on_loopback_nobody_is_asked(address):
    assert not access.needs_token(address)


@pytest.mark.parametrize("address", [None, "", "0.0.0.0", "::", "10.0.0.1", "gpu.example.org", "localhost.example.org"])
def test_elsewhere_everybody_is(address):
    assert access.needs_token(address)


@pytest.mark.parametrize("token", ["", "short", "x" * 15])
def test_no_token_worth_the_name_is_refused_and_never_matches(monkeypatch, token):
    monkeypatch.setenv(access.VARIABLE, token)
    with pytest.raises(PrerequisiteError, match="without a token"):
        access.require_configured()
    assert not access.is_token(token)


@pytest.mark.parametrize("page", PAGES)
def test_bound_elsewhere_without_a_token_every_page_is_one_message(monkeypatch, elsewhere, page):
    monkeypatch.delenv(access.VARIABLE, raising=False)
    app = opened(page)
    assert not app.exception and len(app.code) == 1 and access.VARIABLE in app.code[0].value
    assert not app.sidebar.children and not app.text_input


@pytest.mark.parametrize("page", PAGES[:2])
def test_with_a_token_a_session_is_asked_once(monkeypatch, elsewhere, page):
    monkeypatch.setenv(access.VARIABLE, TOKEN)
    app = opened(page)
    assert not app.sidebar.children and app.text_input[0].proto.type == app.text_input[0].proto.PASSWORD
    for wrong in ("", TOKEN[:-1], f"{TOKEN} ", "ß" * 22):
        app.text_input[0].set_value(wrong)
        app.button[0].click().run()
        assert not app.exception and not app.sidebar.children and "not the token" in app.error[0].value
    app.text_input[0].set_value(TOKEN)
    app.button[0].click().run()
    assert not app.exception and app.sidebar.children
    app.run()
    assert app.sidebar.children  # and not again


def opened(page):
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    return (app if page == "app.py" else app.switch_page(page)).run()


EVIL = "http://evil.example"
STRANGERS = [
    {"host": "evil.example"},
    {"host": "evil.example:8501"},
    {"host": "127.0.0.1.nip.io:8501"},
    {"host": "localhost.evil.example"},
    {"host": "evil.example", "origin": EVIL},
    {"origin": EVIL},
    {"origin": "null"},
    {"origin": "http://localhost.evil.example"},
]


@pytest.mark.parametrize("names", STRANGERS, ids=str)
def test_other_names_and_origins_get_no_session(url, names):
    with pytest.raises(InvalidStatus, match="403"):
        Session(url, **names)


VALUES = [
    "/etc/passwd",
    "../../etc/passwd",
    "file:///etc/passwd",
    "http://remote.invalid/",
    "a%00b",
    "%F0%9F%98%80",
    "-1",
    "1e999",
    "9" * 400,
    "٣",
    "True",
    "none",
    "hf-bf16%0Ahf-fp16",
    "__class__",
    "%7B%7D",
    "'%20OR%201=1--",
    "%ED%A0%80",
]
NAMES = (
    "bundle",
    "function",
    "runtimes",
    "normalize",
    "lora",
    "decoding",
    "baseline",
    "candidate",
    "joint",
    "run",
    "example",
)
NAMES += ("evaluation", "utterance", "tool", "admitted", "token", "over", "recorded-example")


def hostile_queries():
    """Return one value in every parameter, each parameter alone, and what is no query."""
    from urllib.parse import quote

    made = ["&".join(f"{name}={value}" for name in NAMES) for value in VALUES]
    made += [f"{name}={quote(text)}" for name, text in zip(NAMES, markup(), strict=False)]
    return [*made, "&&&===&", "run=1&run=2&run", "x=" * 2000, "normalize=true&normalize=false", "%", "lora"]


@pytest.mark.parametrize("page", ["", "Evaluate", "Diagnose", "Norms", "Health"])
def test_an_address_chooses_among_what_there_is_and_nothing_else(url, page):
    queries = hostile_queries()
    assert len(queries) >= 40
    with Session(url, page=page) as plain:
        plain.run()
        known = plain.options()
    for query in queries:
        with Session(url, page=page, query=query) as session:
            session.run()
            assert not session.exceptions(), query
            assert session.options().items() <= known.items(), query
            assert page == "Diagnose" or session.options() == known, query
            assert "remote.invalid" not in session.html() and "root:x" not in session.html(), query
            if "utterance" in map(key_of, (widget.id for widget in session.widgets())):
                assert session.widget("utterance").value in ("", START_TEXT), query
