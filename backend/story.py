"""The guided story: three failures on one text each, and one sentence that says with this text's figures where to look."""

from __future__ import annotations

from dataclasses import dataclass

from backend import recorded
from backend.answers import answer_text
from backend.inference import RuntimeRun
from backend.probe import SlotPrediction
from backend.recording import Recording
from backend.results import Failure, changes
from backend.runtimes.base import ForwardOptions

TRAINED = ForwardOptions()
_BROKEN = (("normalisation on", ForwardOptions(normalize=True)), ("LoRA off", ForwardOptions(lora=False)))


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A failure on the recorded prompt that shows it best."""

    place: int  # of the prompt in the recording
    failure: Failure


def where_to_look(failure: Failure, healthy: RuntimeRun, broken: RuntimeRun) -> str:
    """Return the sentence.

    Args:
        failure: which of the three.
        healthy: what a runtime reads as the probe was trained.
        broken: what the same runtime reads of the same prompt under ``failure.options``.

    Raises:
        ValueError: the runs are of different functions.
    """
    if failure.slot:
        return _raw_gold(failure, healthy)
    changed = changes(healthy.slots, broken.slots)
    if not changed:
        return "Nothing changed on this text."
    first = changed[0]
    before, after = (_slot(run, first.slot).null_margin for run in (healthy, broken))
    norms = ""
    if failure.normalize:
        norms = f" while the mean norm went from {healthy.norms.mean:.2f} to {broken.norms.mean:.2f}"
    return (
        f"Look at {first.slot}: {answer_text(first.before, quoted=True)} became {answer_text(first.after, quoted=True)}, "
        f"its null margin {before:+.2f} became {after:+.2f}; {len(changed)} of {len(healthy.slots)} slots changed{norms}."
    )


def recorded_story(recording: Recording) -> tuple[RecordedStep, ...]:
    """Choose for each failure the recorded prompt that shows it best; one that no prompt shows is left out.

    Nothing can be told of a recording without the first runtime's states both with and without LoRA.
    """
    runtime = recorded.runtimes(recording)[0]
    if {arm.lora for arm in recording.arms if arm.runtime == runtime} != {True, False}:
        return ()
    steps = []
    for name, options in _BROKEN:
        shown = [(_n_changed(recording, place, runtime, options), -place) for place in range(len(recording))]
        most, place = max(shown, default=(0, 0))
        if most:
            asked = recording.prompt(-place).prompt
            failure = Failure(name, options.normalize, options.lora, asked.function, asked.utterance)
            steps.append(RecordedStep(-place, failure))
    for place in range(len(recording)):
        if (raw_gold := _recorded_raw_gold(recording, place, runtime)) is not None:
            return (*steps, RecordedStep(place, raw_gold))
    return tuple(steps)


def _n_changed(recording: Recording, place: int, runtime: str, options: ForwardOptions) -> int:
    """Count the slots that a failure changes in a prompt that is read right as trained; 0 for any other prompt."""
    gold = {label.slot: label.decoded for label in recording.prompt(place).gold}
    before, after = (recorded.replay(recording, place, [runtime], o)[0].slots for o in (TRAINED, options))
    right = all((slot.value or "") == gold.get(slot.slot, "") for slot in before)
    return len(changes(before, after)) if right else 0


def _recorded_raw_gold(recording: Recording, place: int, runtime: str) -> Failure | None:
    found = recording.prompt(place)
    read = {slot.slot: slot.value for slot in recorded.replay(recording, place, [runtime], TRAINED)[0].slots}
    for label in found.gold:
        if label.decoded != label.value and read[label.slot] == label.decoded:
            named = ("raw gold", False, True, found.prompt.function, found.prompt.utterance)
            return Failure(*named, label.slot, label.decoded, label.value)
    return None


def _raw_gold(failure: Failure, healthy: RuntimeRun) -> str:
    read = _slot(healthy, failure.slot).value
    verdict = "right" if read == failure.decoded else "wrong"
    against = "right" if read == failure.raw else "wrong"
    return (
        f"Look at {failure.slot}: {answer_text(read, quoted=True)} is {verdict} against the text of the gold tokens, "
        f"{failure.decoded!r}, and {against} against the raw label, {failure.raw!r}."
    )


def _slot(run: RuntimeRun, name: str) -> SlotPrediction:
    return next(slot for slot in run.slots if slot.slot == name)
