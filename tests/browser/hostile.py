"""A bundle and a stored run with markup wherever it can be: folder, functions, slots, kinds, values, labels, file names."""

import json

from backend.bundle import load_bundle
from backend.evaluation import begin, carry_on
from backend.plan import Plan
from backend.runtimes.load import load_runtime
from backend.store import Store
from benchmarks.curated_texts import MARKUP, SYNTAX, markup
from tests import tiny

IMAGE = "![x](http://remote.invalid/slot.png)"  # Streamlit's option labels are Markdown, and this is an image in it
NAMES = (
    IMAGE,
    "<img src=x onerror=window.hit=1>",
    "<script>window.hit=1</script>",
    ":red[text] $x^2$ :material/delete:",
    "<iframe src=http://remote.invalid/f>",
    "<a href='javascript:window.hit=1'>x</a>",
)
FOLDER = "<img src=x onerror=window.hit=1> :red[b] $x$"  # a folder's name holds no slash


def texts():
    """Return a few texts that hold every payload, each kind in a text of its own: fences and tags swallow what follows."""
    return ["\n".join(kind) for kind in (*MARKUP.values(), SYNTAX["url"], SYNTAX["formula"])]


def tool():
    """Return the JSON of a function whose every string is a payload."""
    slots = {name: {"type": "string", "description": IMAGE} for name in NAMES}
    about = {"name": NAMES[1], "description": NAMES[2], "parameters": {"type": "object", "properties": slots}}
    return json.dumps({"type": "function", "function": about})


def make(parent):
    """Write the bundle and return its folder."""
    folder = tiny.make(parent / FOLDER, max_tokens=2048)
    slots = {name: {"type": "string", "kind": name, "description": name} for name in NAMES}
    (folder / "function_schemas.json").write_text(json.dumps({NAMES[0]: {"name": NAMES[0], "slots": slots}}))
    rows = []
    for number, payload in enumerate(piece for piece in markup() if piece.isprintable()):
        utterance = f"fly from {payload} to Rome"
        span = {"char_start": 9, "char_end": 8 + len(payload), "value": payload[:-1]}  # its tokens may say more
        gold = {NAMES[number % len(NAMES)]: span}
        rows.append({"id": f"{payload} {number}", "function": NAMES[0], "utterance": utterance, "slots": gold})
    (folder / f"{NAMES[1]}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    toml = f"dataset = {json.dumps(NAMES[1] + '.jsonl')}\n" + (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(toml + '[[runtime]]\nname = "hf-fp16"\ndtype = "float16"\n')
    return folder


def evaluate(folder, store_path):
    """Store a run of the bundle's own set and return its number."""
    bundle = load_bundle(folder)
    live = {spec: load_runtime(spec) for spec in bundle.runtimes}
    with Store(store_path) as store:
        plan = Plan(bundle, bundle.runtimes, (True,), (False, True), dataset=bundle.dataset)
        run = begin(store, plan)
        carry_on(store, run, plan, live.__getitem__)
    return run
