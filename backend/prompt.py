"""Schema and utterance to token ids, and spans between characters and tokens.

The prompt's pieces are tokenised separately, without special tokens, and joined as ids, as the upstream
training script does; tokenising the joined string would merge tokens across the borders.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.bounded_read import read_text
from backend.errors import BundleError, InputError
from backend.foreign_code import refuse_foreign_code
from backend.schema import FunctionSchema
from backend.strict_json import is_encodable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAX_CHARACTERS = 200_000  # 10 MB of text took a tokenizer 24 s and 1.9 GB: cap before tokenising
# Hangul fillers, an empty Braille cell, joiners and variation selectors: letters and marks without ink
_BLANK = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10)))
)


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range ``[start, end)``; of prompt tokens or of code points, as the field says."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of one utterance with all slots of its function."""

    function: str
    utterance: str
    slot_names: tuple[str, ...]  # sorted
    ids: tuple[int, ...]
    utterance_span: Span  # prompt tokens that belong to the utterance
    offsets: tuple[tuple[int, int], ...]  # code points in the utterance, one pair per utterance token
    query_positions: tuple[int, ...]  # prompt token index of each slot's query, in slot order

    def char_span(self, tokens: Span) -> Span:
        """Code points of the utterance that prompt tokens cover, without white space at either end."""
        first = self.utterance_span.start
        inside = self.offsets[tokens.start - first : tokens.end - first]
        start, end = min(inside)[0], max([end for _, end in inside])
        text = self.utterance[start:end]
        start += len(text) - len(text.lstrip())
        return Span(start, max(start, end - (len(text) - len(text.rstrip()))))

    def token_span(self, chars: Span) -> Span:
        """Prompt tokens that overlap a code-point range of the utterance: upstream's gold tokens.

        Raises:
            InputError: if the range is empty, outside the utterance, or touches no token.
        """
        if not 0 <= chars.start < chars.end <= len(self.utterance):
            raise InputError(
                "A gold span lies outside its utterance",
                found=f"[{chars.start}, {chars.end}) of {len(self.utterance)} characters",
                remedy="Correct char_start and char_end (half-open code points).",
            )
        hits = [i for i, (start, end) in enumerate(self.offsets) if start < chars.end and end > chars.start]
        if not hits:
            raise InputError("A gold span touches no token", found=f"[{chars.start}, {chars.end})", remedy="Move it.")
        first = self.utterance_span.start
        return Span(first + hits[0], first + hits[-1] + 1)


class PromptBuilder:
    """Builds prompts for one tokenizer. Safe to share between threads.

    Args:
        tokenizer: a fast tokenizer; offsets are needed to map tokens to characters.
        max_tokens: most tokens that every runtime of the bundle takes.

    Raises:
        BundleError: if the tokenizer gives no offsets.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, max_tokens: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise BundleError(
                "The tokenizer gives no character offsets",
                found=type(tokenizer).__name__,
                remedy="Use a base model that ships tokenizer.json.",
            )
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._pieces: dict[str, tuple[int, ...]] = {}
        # an evaluation decodes the same gold and mostly the same pointers in every cell: 30 us a call otherwise
        self._decoded = lru_cache(maxsize=50_000)(self._decode)

    def build(self, schema: FunctionSchema, utterance: str) -> Prompt:
        """Build the prompt of one utterance.

        Raises:
            InputError: if the utterance is empty, too long, or holds a lone surrogate.
        """
        return self.build_many([(schema, utterance)])[0]

    def build_many(self, pairs: Sequence[tuple[FunctionSchema, str]]) -> list[Prompt]:
        """Build many prompts with one tokenizer call; raises as `build` does, for the first bad one."""
        for _, utterance in pairs:
            check_utterance(utterance)
        encodings = self._encode([utterance for _, utterance in pairs])
        return [self._assemble(*pair, *encoding) for pair, encoding in zip(pairs, encodings, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, stripped: the only way this project turns ids into a value."""
        return self._decoded(tuple(ids))

    def decode_span(self, prompt: Prompt, tokens: Span) -> str:
        """Text of a range of prompt tokens, stripped, as upstream decodes values and gold."""
        return self.decode(prompt.ids[tokens.start : tokens.end])

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The vocabulary's own spelling of each token, for display."""
        return [str(token) for token in self._tokenizer.convert_ids_to_tokens(list(ids))]

    def _decode(self, ids: tuple[int, ...]) -> str:
        return str(self._tokenizer.decode(list(ids))).strip()

    def _assemble(
        self, schema: FunctionSchema, utterance: str, body: tuple[int, ...], offsets: tuple[tuple[int, int], ...]
    ) -> Prompt:
        if not body:
            raise InputError("The text holds nothing that the tokenizer keeps", remedy="Type some words.")
        ids = [*self._piece(f"Function: {schema.name}\n")]
        span = Span(len(ids), len(ids) + len(body))
        ids += [*body, *self._piece("\n\n")]
        queries = []
        for name in schema.slot_names:
            ids += self._piece(f"{name}:")
            queries.append(len(ids) - 1)
            ids += self._piece("\n")
        if len(ids) > self.max_tokens:
            raise InputError(
                f"The text is too long for the model, which takes {self.max_tokens} tokens",
                found=f"{len(ids)} tokens with the slot markers",
                remedy="Shorten the text, or raise max_tokens in bundle.toml where every runtime takes more.",
            )
        return Prompt(schema.name, utterance, schema.slot_names, tuple(ids), span, offsets, tuple(queries))

    def _piece(self, text: str) -> tuple[int, ...]:
        if text not in self._pieces:
            ids = self._encode([text])[0][0]
            if not ids:
                raise BundleError("The tokenizer drops a part of the prompt", found=repr(text), remedy="Use another.")
            self._pieces[text] = ids
        return self._pieces[text]

    def _encode(self, texts: list[str]) -> list[tuple[tuple[int, ...], tuple[tuple[int, int], ...]]]:
        # encode_batch lets go of the interpreter lock, encode does not (1 MB: 0.03 s against 1.0 s).
        try:
            encodings = self._tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        except BaseException as error:
            # The Rust side raises PanicException, which is no Exception.
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise InputError(
                    "The tokenizer refused the text", found=str(error)[:120], remedy="Shorten or change the text."
                ) from None
            raise
        return [(tuple(item.ids), tuple(item.offsets)) for item in encodings]


def load_tokenizer(source: str, *, offline: bool = False) -> PreTrainedTokenizerFast:
    """Load a bundle's fast tokenizer from a directory or hub id, with truncation and padding off.

    Args:
        source: the directory or hub id.
        offline: never ask the hub, only its cache on this machine.

    Raises:
        BundleError: if it cannot be loaded, or its configuration asks for code from elsewhere.
    """
    refuse_foreign_code(source, offline=offline)
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # transformers 5.19 lets the model type overrule a directory that says "take tokenizer.json as it is": beside a Qwen2
    # config it swaps pre-tokenizer and model settings, and ids change without a word
    loader: Any = PreTrainedTokenizerFast if _is_generic(source) else AutoTokenizer
    try:
        tokenizer: Any = loader.from_pretrained(source, trust_remote_code=False, local_files_only=offline)
    except BaseException as error:
        # transformers raises OSError, ValueError, ImportError and more for one broken directory
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            text = str(error).split("\n")[0][:200]
            raise BundleError("The tokenizer cannot be loaded", found=text, remedy="Add tokenizer.json.") from error
        raise
    if getattr(tokenizer, "is_fast", False):
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    loaded: PreTrainedTokenizerFast = tokenizer
    return loaded


def _is_generic(source: str) -> bool:
    try:
        config = json.loads(read_text(Path(source) / "tokenizer_config.json"))
    except (OSError, ValueError):
        return False  # a hub id, or a directory that loading will complain about
    return isinstance(config, dict) and config.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")


def _is_visible(character: str) -> bool:
    """Tell whether anybody could see it: no control, format (zero width, direction) or space, nor a blank letter."""
    return unicodedata.category(character) not in ("Cc", "Cf", "Zs", "Zl", "Zp") and character not in _BLANK


def check_utterance(text: str) -> None:
    """Refuse text that no runtime can answer.

    Raises:
        InputError: if it is empty, nothing that can be seen, over 200,000 characters, or not encodable as UTF-8.
    """
    if not text.strip():
        raise InputError("The text is empty", remedy="Type an utterance, or pick an example.")
    if len(text) <= MAX_CHARACTERS and not any(map(_is_visible, text)):
        codes = ", ".join(f"U+{ord(c):04X}" for c in dict.fromkeys(text[:5]))
        raise InputError(
            "The text holds no visible character", found=codes, remedy="Type an utterance, or pick an example."
        )
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"The text is longer than {MAX_CHARACTERS:,} characters", found=f"{len(text):,}", remedy="Shorten it."
        )
    if not is_encodable(text):
        raise InputError(
            "The text holds half of a surrogate pair, which no tokenizer reads", remedy="Copy it again as real text."
        )
