"""The examples that the shipped recording holds: the first ones of the evaluation set, and those of the guided story.

python -m demo.shown --out shown.jsonl
"""

import argparse
import json
from pathlib import Path

from backend.bundle import DEMO, load_bundle
from backend.results import load_results

_FIRST = 9


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Choose examples for the recording.")
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    dataset, results = load_bundle(DEMO).dataset, load_results(DEMO)
    if dataset is None or results is None:
        raise SystemExit("The demo needs its evaluation set and results.json: `python -m demo.results`.")
    lines = dataset.read_bytes().split(b"\n")
    told = {failure.utterance for failure in results.failures}
    story = [line for line in lines[_FIRST:] if line and json.loads(line)["utterance"] in told]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(b"\n".join([*lines[:_FIRST], *story]) + b"\n")
    print(f"{out.name}: {_FIRST} first examples and {len(story)} of the story")


if __name__ == "__main__":
    main()
