"""Draws the figures of concepts.md from the demo bundle (HuggingFace, FP32): ``python -m docs.figures``."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import torch
from playwright.sync_api import sync_playwright
from plotly.offline import get_plotlyjs
from safetensors.torch import load_file, save_file

from backend.agreement import lora_effect
from backend.bundle import DEMO, load_bundle
from backend.geometry import null_geometry
from backend.norms import token_norms
from backend.probe import Probe
from backend.prompt import Prompt
from backend.runtimes.base import ForwardOptions, RuntimeSpec
from backend.runtimes.hf import HFRuntime
from backend.scoring import load_examples
from tests.browser.serving import launch
from ui.theme import BAD, GOOD, NEUTRAL, runtime_style

IMAGES = Path(__file__).parent / "images"
N_EXAMPLES = 60
_OFF = ForwardOptions(lora=False)


def main() -> None:
    """Draw all three and print what they show."""
    bundle = load_bundle(DEMO)
    probe = bundle.load_probe()
    spec = replace(bundle.runtimes[0], name="hf-fp32", dtype="float32")
    prompts = load_examples(bundle, probe.builder, limit=N_EXAMPLES)[1]
    runtime = HFRuntime.load(spec)
    states = runtime.forward([prompt.ids for prompt in prompts], ForwardOptions())
    figures = {
        "flip-band": flip_band(probe, prompts, states),
        "certificate": certificate(probe, prompts, states),
        "fingerprint": fingerprint(spec, prompts[:8]),
    }
    _save(figures)
    print(f"wrote {', '.join(f'{name}.svg' for name in figures)}: {N_EXAMPLES} examples")


def flip_band(probe: Probe, prompts: list[Prompt], states: list[torch.Tensor]) -> go.Figure:
    """Every slot's |weight part| / |bias part| against the norm of its query; the band is where presence flips."""
    slots = [null for prompt, rows in zip(prompts, states, strict=True) for null in null_geometry(probe, prompt, rows)]
    top = 1.15 * max(null.norm for null in slots)
    low = 0.85 * min(null.norm for null in slots)
    figure = go.Figure()
    figure.add_scatter(
        x=[1, 1, top, low], y=[low, top, top, low], fill="toself", mode="none", fillcolor="rgba(213,94,0,.15)", name="band"
    )
    for name, colour, symbol, wanted in (
        ("flips", BAD, "x", lambda null: null.flips),
        ("stays: signs agree", NEUTRAL, "circle-open", lambda null: not null.flips and _agree(null)),
        ("stays: outside the band", GOOD, "diamond", lambda null: not null.flips and not _agree(null)),
    ):
        drawn = [null for null in slots if wanted(null)]
        figure.add_scatter(
            x=[null.ratio for null in drawn],
            y=[null.norm for null in drawn],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 7},
            name=f"{name} ({len(drawn)})",
        )
    figure.update_xaxes(type="log", title="|weight part| / |bias part|")
    figure.update_yaxes(title="norm of the query state", range=[low, top])
    return figure


def _agree(null: object) -> bool:
    return bool(null.weight_part * null.bias_part >= 0)  # type: ignore[attr-defined]


def certificate(probe: Probe, prompts: list[Prompt], states: list[torch.Tensor]) -> go.Figure:
    """Share of pointer ends that per-token normalisation moves, with the norms' spread made smaller and larger."""
    spreads, moved = [], []
    norms = [token_norms(rows) for rows in states]
    mean = torch.cat(norms).mean()
    scores = [probe.scores(prompt, rows) for prompt, rows in zip(prompts, states, strict=True)]
    for power in (0, 0.25, 0.5, 1, 1.5, 2, 3, 4):
        scaled = [mean * (one / mean) ** power for one in norms]
        inside = [n[p.utterance_span.start : p.utterance_span.end] for n, p in zip(scaled, prompts, strict=True)]
        changed = torch.cat(
            [
                (ends.argmax(-1) != (ends / n).argmax(-1)).flatten()
                for score, n in zip(scores, inside, strict=True)
                for ends in (score.start, score.end)
            ]
        )
        pooled = torch.cat(inside)
        spreads.append(100 * float(pooled.std(unbiased=False) / pooled.mean()))
        moved.append(100 * float(changed.float().mean()))
    figure = go.Figure()
    style = runtime_style(0)
    figure.add_scatter(x=spreads, y=moved, mode="lines+markers", line={"color": style.colour}, name="share that moves")
    figure.add_vline(x=spreads[3], line={"dash": "dot", "color": NEUTRAL}, annotation_text="the demo as it is")
    figure.update_xaxes(title="spread of token norms (CV), %", rangemode="tozero")
    figure.update_yaxes(title="pointer ends that move, %", rangemode="tozero")
    figure.update_layout(showlegend=False)
    return figure


def fingerprint(spec: RuntimeSpec, prompts: list[Prompt]) -> go.Figure:
    """What LoRA changes in the states of a healthy runtime against three that are not."""
    ids = [prompt.ids for prompt in prompts]
    on, off = _effect(spec, ids)
    sample = torch.randperm(on.numel(), generator=torch.Generator().manual_seed(0))[:150]
    figure = go.Figure()
    with tempfile.TemporaryDirectory() as folder:
        specs = {
            "healthy, FP16": replace(spec, dtype="float16"),
            "lora_alpha times 1.25": replace(spec, adapter=_edited(spec, Path(folder) / "alpha", alpha=1.25)),
            "half the layers": replace(spec, adapter=_edited(spec, Path(folder) / "half", every_other=True)),
            "not applied": replace(spec, adapter=_edited(spec, Path(folder) / "none", alpha=0)),
        }
        for place, (name, other) in enumerate(specs.items()):
            mine = _effect(other, ids)
            found = lora_effect(*mine, baseline_on=on, baseline_off=off)
            style = runtime_style(place)
            figure.add_scatter(
                x=(on - off).flatten()[sample].tolist(),
                y=(mine[0] - mine[1]).flatten()[sample].tolist(),
                mode="markers",
                marker={"size": 4, "color": style.colour, "symbol": style.symbol, "opacity": 0.7},
                name=f"{name}: cosine {found.cosine:.2f}, slope {found.slope:.2f}",
            )
    figure.update_xaxes(title="change that LoRA makes on the baseline", zeroline=True)
    figure.update_yaxes(title="change on the candidate", zeroline=True)
    return figure


def _effect(spec: RuntimeSpec, ids: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
    runtime = HFRuntime.load(spec)
    on, off = (torch.cat([rows.float() for rows in runtime.forward(ids, o)]) for o in (ForwardOptions(), _OFF))
    runtime.close()
    return on, off


def _edited(spec: RuntimeSpec, folder: Path, *, alpha: float = 1, every_other: bool = False) -> str:
    """Copy the adapter with another scale, or with the second side of every other layer at zero."""
    shutil.copytree(str(spec.adapter), folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        layer = int(name.split("layers.")[1].split(".")[0])
        if ".lora_B" in name and (alpha == 0 or (every_other and layer % 2)):
            tensor.zero_()
    config["lora_alpha"] = config["lora_alpha"] * alpha or config["lora_alpha"]
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors")
    return str(folder)


def _save(figures: dict[str, go.Figure]) -> None:
    """Let a browser draw them: plotly writes SVG there."""
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_page()
        page.set_content("<div id=at></div>")
        page.add_script_tag(content=get_plotlyjs())
        for name, figure in figures.items():
            legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom"}
            figure.update_layout(template="plotly_white", font={"size": 13}, legend=legend, margin={"t": 60, "r": 20})
            svg = page.evaluate(
                "async spec => { const at = await Plotly.newPlot('at', spec.data, spec.layout);"
                " return Plotly.toImage(at, {format: 'svg', width: 820, height: 420}) }",
                json.loads(figure.to_json()),
            )
            text = page.evaluate("uri => decodeURIComponent(uri.slice(uri.indexOf(',') + 1))", svg)
            (IMAGES / f"{name}.svg").write_text(text + "\n", encoding="utf-8")
        browser.close()


if __name__ == "__main__":
    main()
