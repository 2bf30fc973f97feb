"""A score in words: how good, what is wrong, and where."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from qinsight_plugin.records import ACR_LEVELS, SEVERITIES, Distortion, Gate, Report, Score

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from qinsight_plugin.records import QualityMap

WORSE = 0.35
"""MOS by which a ninth of the picture must lie under the median ninth to be called worse."""

EVEN = 0.2
"""MOS between the best and the worst ninth up to which a picture is called alike everywhere."""

_NOUNS = {"darken": "darkening"}

_COMPLAINTS = {
    "noise": ("grainy", "take it in better light"),
    "compression": ("heavily compressed", "upload the original file"),
    "blur": ("blurred", "choose a sharper one"),
    "darken": ("dark", "choose a brighter one"),
}
"""Of each distortion: what people call a picture that has it, and what they can do."""

_UNSEEN = {
    "ImageTooLargeError": ("it has too many pixels", "make it smaller"),
    "ImageTooSmallError": ("it is too small", "upload a larger one"),
    "ImageUnsupportedError": ("it is in a format that is not taken here", "save it as JPEG or PNG"),
    "ImageDecodeError": ("it is damaged, or is no picture", "save it anew"),
}
"""Of an error's name: why a picture was not looked at, and what its uploader can do."""

# A place is a ninth, a side, or the quarter at a corner. The ninths are  0 1 2
#                                                                         3 4 5
#                                                                         6 7 8
_PLACES = {
    "in the top left": ("0", "0134"),
    "at the top": ("1", "012"),
    "in the top right": ("2", "1245"),
    "on the left": ("3", "036"),
    "in the centre": ("4",),
    "on the right": ("5", "258"),
    "in the bottom left": ("6", "3467"),
    "at the bottom": ("7", "678"),
    "in the bottom right": ("8", "4578"),
}


def explain(score: Score) -> str:
    """The score in one phrase, such as "2.4 ± 0.3: obvious blur, worst on the left".

    The number is rounded to the first digit of its uncertainty, and to two decimals where none is
    stated. What the scorer does not tell is left out; where it looked for distortions, found none,
    and did not score low either, that is "nothing wrong found".
    """
    found = findings(score)
    if not found and score.distortions is not None:
        found = "nothing wrong found"
    return ": ".join(filter(None, (_number(score), found)))


def findings(score: Score) -> str:
    """What is wrong with the picture and where, such as "serious noise, worst at the top".

    A place is named where the ninths of the quality map that lie `WORSE` or more under the median
    ninth make up a ninth, a side or a corner. Distortions are "everywhere" where no two ninths are
    more than `EVEN` apart. Neither is said in between, of maps with fewer than 3x3 cells, or
    without `levels`: a scale that is not MOS may have any unit and run either way.

    Returns:
        "" where nothing is wrong, or the scorer does not tell.
    """
    what, where = _what(score), _where(score)
    if where and not what and score.distortions is not None:
        what = "nothing wrong on the whole"
    return ", ".join(filter(None, (what, where)))


def for_uploader(report: Report, gate: Gate) -> str:
    """Why a gate rejected a picture, in one sentence for whoever uploaded it: no jargon, no figures
    of ours, and what can be done.

    >>> for_uploader(Report("a.jpg", "student", Score(2.1), width=320, height=240),
    ...              Gate(min_width=640))
    'This picture was not accepted: it is 320 pixels wide, and at least 640 are needed; upload a \
larger one.'
    """
    wrong = list(_complaints(report, gate)) or [("it could not be checked", "choose another one")]
    what = _enumeration([complaint for complaint, _ in wrong])
    todo = _enumeration(list(dict.fromkeys(advice for _, advice in wrong)))
    return f"This picture was not accepted: {what}; {todo}."


def _complaints(report: Report, gate: Gate) -> Iterator[tuple[str, str]]:
    if report.error is not None or report.score is None:
        yield _UNSEEN.get(report.error_type or "", ("it could not be checked", "try again later"))
        return
    for side, pixels, least in (
        ("wide", report.width, gate.min_width),
        ("high", report.height, gate.min_height),
    ):
        if least is not None and pixels < least:
            what = f"it is {pixels} pixels {side}, and at least {least} are needed"
            yield what, "upload a larger one"
    score = report.score
    found = [d for d in score.distortions or () if d.name in _COMPLAINTS]
    is_low = gate.min_score is not None and not score.value >= gate.min_score
    named = found if is_low else [d for d in found if _is_forbidden(d, gate)]
    for distortion in named:
        complaint, advice = _COMPLAINTS[distortion.name]
        yield f"it is {'too ' if distortion.severity != 'slight' else ''}{complaint}", advice
    if is_low and not named:
        yield "it does not look good enough", "choose a better one"
    reference = report.reference_score
    if (
        gate.max_drop is not None
        and reference is not None
        and reference.value - score.value > gate.max_drop
    ):
        yield "it has lost too much of the original's quality", "upload the original file"


def _is_forbidden(distortion: Distortion, gate: Gate) -> bool:
    least = gate.forbid.get(distortion.name)
    if least is None or distortion.severity not in SEVERITIES:
        return False
    return SEVERITIES.index(distortion.severity) >= SEVERITIES.index(least)


def _number(score: Score) -> str:
    spread = score.uncertainty
    if spread is None:
        return f"{score.value:.2f}"
    decimals = -math.floor(math.log10(spread)) if 0 < spread < math.inf else 2
    least = 0 if score.levels is None else 1  # "2 ± 1" of 1 to 5 would say next to nothing
    decimals = min(max(decimals, least), 9)
    return f"{score.value:.{decimals}f} ± {spread:.{decimals}f}"


def _what(score: Score) -> str:
    if score.distortions:
        return _enumeration([_phrase(d) for d in score.distortions])
    if score.distortions is not None and score.levels is not None:
        level = ACR_LEVELS[bisect((1.5, 2.5, 3.5, 4.5), score.value)]
        if level in ("bad", "poor"):
            return f"{level}, cause not found"
    return ""


def _phrase(distortion: Distortion) -> str:
    return f"{distortion.severity} {_NOUNS.get(distortion.name, distortion.name)}"


def _enumeration(phrases: Sequence[str]) -> str:
    *others, last = phrases
    return f"{', '.join(others)} and {last}" if others else last


def _where(score: Score) -> str:
    if score.levels is None or score.quality_map is None or min(score.quality_map.shape) < 3:
        return ""
    ninths = _ninths(score.quality_map)
    if ninths.max() - ninths.min() <= EVEN:
        return "everywhere" if score.distortions else ""
    median = sorted(ninths)[4]
    place = _place({number for number, ninth in enumerate(ninths) if ninth <= median - WORSE})
    return f"worst {place}" if place else ""


def _ninths(quality_map: QualityMap) -> npt.NDArray[np.float32]:
    """[9]: the mean of each ninth, row by row; each cell counts where its centre lies."""
    import numpy as np
    from PIL import Image

    whole = Image.fromarray(np.asarray(quality_map, np.float32))
    return np.asarray(whole.resize((3, 3), Image.Resampling.BOX)).reshape(9)


def _place(worse: set[int]) -> str:
    """The place that holds all these ninths, and in which they are the majority."""
    for place, regions in _PLACES.items():
        for region in regions:
            ninths = {int(number) for number in region}
            if worse <= ninths and 2 * len(worse) > len(ninths):
                return place
    return ""
