"""Reads what a stranger's bundle holds as loading it would, in a process that may die of it; see `quarantine`.

Nothing here needs transformers: tokenizer.json goes to the tokenizers library itself, weights are scanned as bytes, and
only heads in a ``.pt`` file need torch. Each step says first which file it is about to read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from backend.errors import BundleError
from backend.foreign_code import refuse_foreign_code
from backend.heads import load_heads
from backend.safetensors_header import non_finite

# long runs that make patterns backtrack, what a prompt is made of, numbers, other scripts
TEXTS = (
    "a" * 3000,
    " " * 2000 + "!" * 2000,
    "a1 " * 1000 + "\n\n",
    "Function: book_flight\n",
    "Fly me from Boston to Seattle next Friday, 2 adults at $20 each (-1, -2).",
    "日本 naïve café Ω≈ç 🙂 שלום नमस्ते",
)
_MOST_TOKENS = 8  # per character and text; more only a normaliser that multiplies text makes
_REMEDY = "Copy it again; it is not what a training script writes."


def examine(path: Path, announce: Callable[[str], None]) -> None:
    """Examine heads (a file), or a folder of a model or adapter.

    Args:
        path: what to read.
        announce: told the name of each file before it is opened.

    Raises:
        BundleError: for the first file that cannot be used.
    """
    if not path.is_dir():
        announce(path.name)
        load_heads(path)
        return
    announce(f"{path.name}/config.json")
    refuse_foreign_code(str(path), offline=True)
    if (path / "tokenizer.json").is_file():
        announce(f"{path.name}/tokenizer.json")
        tokenize(path / "tokenizer.json")
    for weights in sorted(path.glob("*.safetensors")):
        announce(f"{path.name}/{weights.name}")
        for name in non_finite(weights):
            found = f"{name} in {path.name}/{weights.name}"
            raise BundleError("Weights hold NaN or infinity", found=found, remedy=f"Copy {path.name} again.")


def tokenize(path: Path) -> None:
    """Read a tokenizer.json and tokenise `TEXTS` with it; raises `BundleError` where it breaks, or multiplies text."""
    from tokenizers import Tokenizer

    name = f"{path.parent.name}/{path.name}"
    try:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except BaseException as error:  # the Rust side raises PanicException, which is no Exception
        raise BundleError(f"{name} cannot be read", found=_said(error), remedy=_REMEDY) from error
    refused: Exception | None = None
    n_read = 0
    for text in TEXTS:
        try:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            tokenizer.decode(ids)
        except Exception as error:  # a small vocabulary may refuse a script it does not know
            refused = error
            continue
        except BaseException as error:
            raise BundleError(f"{name} breaks on a text", found=_said(error), remedy=_REMEDY) from error
        n_read += 1
        if len(ids) > _MOST_TOKENS * len(text):
            found = f"{len(ids)} tokens from {len(text)} characters"
            raise BundleError(f"{name} multiplies text", found=found, remedy=_REMEDY)
    if n_read == 0:
        raise BundleError(f"{name} refuses every text", found=_said(refused), remedy=_REMEDY)


def _said(error: BaseException | None) -> str:
    return str(error).split("\n")[0][:160]
