"""The health of a bundle's runtimes: the prompts to judge them on, and the baseline to compare with."""

from __future__ import annotations

from backend.bundle import Bundle
from backend.check_types import Check
from backend.checks import check_runtime
from backend.errors import BackendError
from backend.pool import Pool
from backend.probe import Probe
from backend.prompt import PromptBuilder
from backend.runtimes.base import RuntimeSpec
from backend.schema import load_schemas
from backend.scoring import load_examples

N_PROMPTS = 12


def check_spec(pool: Pool, bundle: Bundle, probe: Probe, spec: RuntimeSpec) -> list[Check]:
    """Check one runtime of a bundle; one that cannot be loaded is a failed check."""
    try:
        runtime = pool.get(spec)
        baseline = pool.get(bundle.runtimes[0])
    except BackendError as error:
        return [Check("loads", False, str(error), "a live runtime", error.remedy)]
    ids = check_prompts(bundle, probe.builder)
    return check_runtime(
        runtime, baseline, ids, d_heads=probe.heads.d_model, base_model=bundle.base, trained=bundle.adapter
    )


def check_prompts(bundle: Bundle, builder: PromptBuilder) -> list[tuple[int, ...]]:
    """Return prompts to check with: of the evaluation set, or of the schemas where there is none."""
    if bundle.dataset is not None:
        return [prompt.ids for prompt in load_examples(bundle, builder, limit=N_PROMPTS)[1]]
    schemas = sorted(load_schemas(bundle.schemas).values(), key=lambda schema: schema.name)[:N_PROMPTS]
    texts = [f"{schema.description or schema.name}, please, for {' and '.join(schema.slot_names)}" for schema in schemas]
    return [prompt.ids for prompt in builder.build_many(list(zip(schemas, texts, strict=True)))]
