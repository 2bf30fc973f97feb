from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import qinsight_plugin
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.gate import check_gate, judge_report, load_policy
from qinsight_plugin.records import (
    DISTORTIONS,
    SEVERITIES,
    Distortion,
    Gate,
    OnUnscorable,
    Report,
    Score,
)

NUMBER = r"(-?[\d.]+(?:e[+-]\d+)?)"

# How long an example takes tells how busy the machine is, and nothing of what is tested here.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

finite = st.floats(allow_nan=False, allow_infinity=False)
mos = st.floats(1, 5)
sizes = st.integers(1, 5000)
distortions = st.builds(Distortion, st.sampled_from(DISTORTIONS), st.sampled_from(SEVERITIES))
scores = st.builds(
    Score, st.floats(), st.none() | st.lists(distortions, max_size=3).map(tuple)
)  # NaN and infinities included
reports = st.builds(
    Report,
    source=st.just("a.jpg"),
    scorer=st.just("student"),
    score=st.none() | scores,
    reference_score=st.none() | scores,
    width=st.integers(0, 5000),
    height=st.integers(0, 5000),
    error=st.none() | st.just("a.jpg is truncated"),
)
gates = st.builds(
    Gate,
    min_score=st.none() | mos,
    max_drop=st.none() | st.floats(0, 4),
    forbid=st.dictionaries(st.sampled_from(DISTORTIONS), st.sampled_from(SEVERITIES)),
    min_width=st.none() | sizes,
    min_height=st.none() | sizes,
    unscorable=st.sampled_from(["reject", "accept"]),
)


def report(value: float = 3.0, reference: float | None = None, **fields: object) -> Report:
    against = None if reference is None else Score(reference)
    known = {"score": Score(value), "reference_score": against, "width": 640, "height": 480}
    return Report("a.jpg", "student", **(known | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        (Gate(min_score=3.5), "score 2.31 is below the minimum of 3.5"),
        (
            Gate(max_drop=0.5),
            "score 2.31 is 1.69 below the reference's 4.0; at most 0.5 is allowed",
        ),
        (Gate(min_width=641), "width 640 px is under the minimum of 641 px"),
        (Gate(min_height=481), "height 480 px is under the minimum of 481 px"),
        (Gate(forbid={"blur": "obvious"}), "serious blur; refused from obvious up"),
    ],
)
def test_a_broken_rule_rejects_and_gives_its_reason_whatever_becomes_of_unscorable_pictures(
    gate: Gate, reason: str
) -> None:
    judged = report(score=Score(2.31, (Distortion("blur", "serious"),)), reference=4.0)
    words: tuple[OnUnscorable, ...] = ("reject", "accept")
    for word in words:
        verdict = judge_report(judged, replace(gate, unscorable=word))
        assert (verdict.source, verdict.accepted, verdict.reasons) == ("a.jpg", False, (reason,))


def test_every_broken_rule_gives_its_own_reason() -> None:
    gate = Gate(3.5, 0.5, {"blur": "slight", "noise": "slight"}, 1000, 1000)
    found = (Distortion("noise", "slight"), Distortion("blur", "catastrophic"))
    verdict = judge_report(report(score=Score(2.0, found), reference=4.0), gate)
    assert not verdict.accepted
    assert len(verdict.reasons) == 6


def test_every_bound_is_inclusive() -> None:
    gate = Gate(min_score=3.0, max_drop=0.5, min_width=640, min_height=480)
    assert judge_report(report(3.0, 3.5), gate).accepted


def test_a_distortion_is_refused_from_its_own_level_up() -> None:
    gate = Gate(forbid={"blur": "obvious"})
    accepted = [
        judge_report(report(score=Score(3.0, (Distortion("blur", severity),))), gate).accepted
        for severity in ("slight", "moderate", "obvious", "serious", "catastrophic")
    ]
    assert accepted == [True, True, False, False, False]


def test_a_drop_is_measured_in_the_numbers_that_people_see() -> None:
    assert 4.0 - 3.9 > 0.1  # in binary
    assert judge_report(report(3.9, 4.0), Gate(max_drop=0.1)).accepted


def test_a_gate_without_rules_only_asks_that_the_picture_can_be_scored() -> None:
    assert judge_report(report(1.0), Gate()).reasons == ()
    assert not judge_report(report(score=None, error="a.jpg is truncated"), Gate()).accepted


@pytest.mark.parametrize(
    ("judged", "gate", "reason"),
    [
        (
            report(score=None, error="a.jpg is truncated", width=0, height=0),
            Gate(min_score=1.0, max_drop=1.0, forbid={"blur": "slight"}, min_width=1),
            "cannot be scored: a.jpg is truncated",
        ),
        (report(score=None), Gate(), "cannot be scored: the report holds no score"),
        (report(math.nan), Gate(), "cannot be scored: the score is nan"),
        (report(math.inf), Gate(min_score=3.0), "cannot be scored: the score is inf"),
        (
            report(),
            Gate(max_drop=1.0),
            "max_drop cannot be checked: no reference was given and scored",
        ),
        (
            report(reference=math.nan),
            Gate(max_drop=1.0),
            "max_drop cannot be checked: the reference's score is nan",
        ),
        (
            report(),
            Gate(forbid={"blur": "slight"}),
            "forbid cannot be checked: scorer student does not look for distortions",
        ),
        (
            report(score=Score(3.0, (Distortion("blur", "awful"),))),
            Gate(forbid={"blur": "slight"}),
            "forbid.blur cannot be checked: 'awful' is not a known severity",
        ),
        (
            report(width=0),
            Gate(min_width=1),
            "min_width cannot be checked: the picture's width is not known",
        ),
    ],
)
def test_a_rule_that_cannot_be_applied_is_listed_and_rejects_unless_told_to_accept(
    judged: Report, gate: Gate, reason: str
) -> None:
    strict, lax = (
        judge_report(judged, gate),
        judge_report(judged, replace(gate, unscorable="accept")),
    )
    assert (strict.accepted, strict.reasons) == (False, (reason,))
    assert (lax.accepted, lax.reasons) == (True, (reason,))


def test_accepting_the_unscorable_excuses_no_rule_that_can_be_applied() -> None:
    gate = Gate(min_score=3.0, min_width=1000, unscorable="accept")
    verdict = judge_report(report(score=None, error="a.jpg has no reference"), gate)
    assert not verdict.accepted
    assert verdict.reasons == (
        "cannot be scored: a.jpg has no reference",
        "width 640 px is under the minimum of 1000 px",
    )


@patient
@given(reports, gates, mos, mos)
def test_raising_min_score_never_turns_a_rejection_into_an_acceptance(
    judged: Report, gate: Gate, a: float, b: float
) -> None:
    low, high = sorted((a, b))
    assert acceptance(judged, gate, min_score=high) <= acceptance(judged, gate, min_score=low)
    assert acceptance(judged, gate, min_score=low) <= acceptance(judged, gate, min_score=None)


@patient
@given(reports, gates, st.floats(0, 4), st.floats(0, 4))
def test_lowering_max_drop_never_turns_a_rejection_into_an_acceptance(
    judged: Report, gate: Gate, a: float, b: float
) -> None:
    low, high = sorted((a, b))
    assert acceptance(judged, gate, max_drop=low) <= acceptance(judged, gate, max_drop=high)
    assert acceptance(judged, gate, max_drop=high) <= acceptance(judged, gate, max_drop=None)


@patient
@given(reports, gates, sizes, sizes)
def test_raising_a_minimum_size_never_turns_a_rejection_into_an_acceptance(
    judged: Report, gate: Gate, a: int, b: int
) -> None:
    low, high = sorted((a, b))
    for side in ("min_width", "min_height"):
        assert acceptance(judged, gate, **{side: high}) <= acceptance(judged, gate, **{side: low})


@patient
@given(reports, gates)
def test_a_clean_acceptance_has_no_reasons_and_a_rejection_has_some(
    judged: Report, gate: Gate
) -> None:
    verdict = judge_report(judged, gate)
    assert verdict.accepted or verdict.reasons
    assert all("\n" not in reason for reason in verdict.reasons)


@patient
@given(finite, finite)
def test_the_numbers_of_a_low_score_show_that_it_is_low(score: float, minimum: float) -> None:
    assume(score < minimum)
    (reason,) = judge_report(report(score), Gate(min_score=minimum)).reasons
    match = re.fullmatch(rf"score {NUMBER} is below the minimum of {NUMBER}", reason)
    assert match is not None
    assert float(match[1]) < float(match[2])


@patient
@given(st.data(), mos, mos, st.floats(0, 4))
def test_the_numbers_of_a_drop_add_up_and_show_that_it_is_too_large(
    data: st.DataObject, score: float, reference: float, limit: float
) -> None:
    if data.draw(st.booleans(), "close to the limit"):
        limit = max(0.0, reference - score - data.draw(st.floats(0, 0.02)))
    reasons = judge_report(report(score, reference), Gate(max_drop=limit)).reasons
    assume(reasons)
    pattern = (
        rf"score {NUMBER} is {NUMBER} below the reference's {NUMBER}; at most {NUMBER} is allowed"
    )
    match = re.fullmatch(pattern, reasons[0], re.IGNORECASE)
    assert match is not None
    low, drop, high, allowed = (Decimal(number) for number in match.groups())
    assert high - low == drop > allowed
    assert abs(low - Decimal(score)) <= Decimal("0.005")


def test_a_score_just_under_the_minimum_is_not_rounded_up_to_it() -> None:
    (reason,) = judge_report(report(3.4999), Gate(min_score=3.5)).reasons
    assert reason == "score 3.4999 is below the minimum of 3.5"


def test_scores_of_numpy_are_judged_and_shown_like_any_other() -> None:
    just_under = np.nextafter(np.float64(3.5), 0)
    gate = Gate(min_score=3.5, max_drop=0.0)
    verdict = judge_report(report(just_under, np.float64(3.5)), gate)
    assert verdict.reasons == (
        "score 3.4999999999999996 is below the minimum of 3.5",
        "score 3.4999999999999996 is 4E-16 below the reference's 3.5; at most 0.0 is allowed",
    )


def acceptance(judged: Report, gate: Gate, **rule: Any) -> bool:
    return judge_report(judged, replace(gate, **rule)).accepted


BAD_RULES = [
    ({"min_score": math.nan}, "min_score must be a finite number"),
    ({"min_score": 10**400}, "min_score must be a finite number"),
    ({"min_score": True}, "min_score must be a number, not True"),
    ({"min_score": "3"}, "min_score must be a number, not '3'"),
    ({"max_drop": math.inf}, "max_drop must be a finite number"),
    ({"max_drop": -0.5}, "max_drop must be 0 or more, not -0.5"),
    ({"min_width": 0}, "min_width must be 1 pixel or more, not 0"),
    ({"min_height": 1.5}, "min_height must be a whole number of pixels, not 1.5"),
    ({"min_width": True}, "min_width must be a whole number of pixels, not True"),
    ({"forbid": "blur"}, 'forbid must be a table of distortions, such as blur = "obvious"'),
    (
        {"forbid": {"blurr": "slight"}},
        "forbid: 'blurr' is not one of noise, compression, blur, darken",
    ),
    (
        {"forbid": {"blur": "bad"}},
        "forbid.blur: 'bad' is not one of slight, moderate, obvious, serious, catastrophic",
    ),
    ({"unscorable": "ignore"}, "unscorable: 'ignore' is not one of reject, accept"),
]


@pytest.mark.parametrize(("rule", "message"), BAD_RULES)
def test_an_impossible_rule_is_refused_when_checked_and_when_judging(
    rule: dict[str, Any], message: str
) -> None:
    gate = replace(Gate(), **rule)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        check_gate(gate)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        judge_report(report(), gate)


@patient
@given(gates)
def test_a_possible_gate_passes_the_check_unchanged(gate: Gate) -> None:
    assert check_gate(gate) is gate


def test_scales_other_than_mos_have_thresholds_of_their_own() -> None:
    gate = check_gate(Gate(min_score=-80.0))
    assert judge_report(report(-79.0), gate).accepted


def test_a_policy_file_holds_every_rule(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(
        "\ufeff# for the shop\r\nmin_score = 3\r\nmax_drop = 0.5\r\nmin_width = 640\r\n"
        'min_height = 480\r\nunscorable = "accept"\r\n[forbid]\r\nblur = "obvious"\r\n',
        encoding="utf-8",
    )
    assert load_policy(str(path)) == Gate(3, 0.5, {"blur": "obvious"}, 640, 480, "accept")


def test_numbers_of_numpy_are_numbers() -> None:
    gate = check_gate(Gate(np.float32(3.5), min_width=np.int64(640)))
    assert judge_report(report(3.4, width=639), gate).reasons == (
        "score 3.4 is below the minimum of 3.5",
        "width 639 px is under the minimum of 640 px",
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no rule, and would accept everything; write one into it"),
        ("# min_score = 3", "has no rule, and would accept everything; write one into it"),
        ("min_scor = 3", "unknown key 'min_scor'; did you mean 'min_score'?"),
        ("zebra = 3", "unknown key 'zebra'; the keys are min_score, max_drop, forbid, "),
        ("min_score = true", "min_score must be a number, not True"),
        ("min_score = nan", "min_score must be a finite number"),
        ("min_score = 2024-01-01", "min_score must be a number, not datetime.date(2024, 1, 1)"),
        ("min_width = 640.0", "min_width must be a whole number of pixels, not 640.0"),
        ("forbid = ['blur']", "forbid must be a table"),
        ("[forbid]\nblur = 3", "forbid.blur: 3 is not one of slight"),
        ("[forbid]\nblur = 'slight'\nmin_score = 3", "min_score stands under [forbid]; move it"),
        ("min_score = 3\nmin_width = = 4", "is not valid TOML: Invalid value (at line 2, "),
        ("min_score = 3\nmin_width =", "is not valid TOML: Invalid value (at line 2, the end of"),
        ("min_score = 3\nmin_score = 4", "is not valid TOML: Cannot overwrite a value (at line 2"),
        ("a = " + "[" * 100_000, "is not valid TOML: "),
    ],
)
def test_a_wrong_policy_is_refused_in_one_line_that_names_the_file_and_the_fault(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    message = str(caught.value)
    assert message.startswith(f"policy {str(path)!r}")
    assert complaint in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["missing.toml", ".", "a\0b", "policy.toml/x"])
def test_a_policy_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "policy.toml").touch()
    with pytest.raises(ConfigError, match="cannot be read: ") as caught:
        load_policy(os.path.join(tmp_path, name))  # noqa: PTH118 - Path would tidy the name
    assert caught.value.__cause__ is not None


def test_a_policy_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes("# für den Laden".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"is not text in UTF-8 \(byte 3\)"):
        load_policy(path)


def test_judging_writing_and_sorting_load_nothing_heavy() -> None:
    code = (
        "import sys, qinsight_plugin.gate, qinsight_plugin.report, qinsight_plugin.sorting\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}\n"
        "    & {'numpy', 'PIL', 'scipy', 'onnxruntime', 'torch', 'cv2', 'pluggy', 'click'}))"
    )
    home = Path(qinsight_plugin.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, stdout=subprocess.PIPE, check=True, timeout=30
    )
    assert done.stdout.strip() == b"[]"


@patient
@given(reports, gates)
def test_a_rejection_has_one_sentence_for_the_uploader_and_an_acceptance_none(
    judged: Report, gate: Gate
) -> None:
    verdict = judge_report(judged, gate)
    assert bool(verdict.sentence) == (not verdict.accepted)
    if verdict.sentence:
        assert re.fullmatch(r"This picture was not accepted: [^.;]+; [^.;]+\.", verdict.sentence)


@pytest.mark.parametrize(
    ("judged", "gate", "sentence"),
    [
        (
            Report("a", "s", Score(2.0, (Distortion("blur", "serious"),)), width=320, height=900),
            Gate(min_score=3, min_width=640),
            "it is 320 pixels wide, and at least 640 are needed and it is too blurred; upload a "
            "larger one and choose a sharper one",
        ),
        (
            Report("a", "s", Score(4.0, (Distortion("noise", "slight"),))),
            Gate(forbid={"noise": "slight"}),
            "it is grainy; take it in better light",
        ),
        (
            Report("a", "s", Score(2.0)),
            Gate(min_score=3),
            "it does not look good enough; choose a better one",
        ),
        (
            Report("a", "s", error="x", error_type="ImageDecodeError"),
            Gate(),
            "it is damaged, or is no picture; save it anew",
        ),
        (
            Report("a", "s", error="x", error_type="WeightsError"),
            Gate(),
            "it could not be checked; try again later",
        ),
        (
            Report("a", "s", Score(3.0), Score(4.5)),
            Gate(max_drop=1.0),
            "it has lost too much of the original's quality; upload the original file",
        ),
    ],
)
def test_what_an_uploader_is_told(judged: Report, gate: Gate, sentence: str) -> None:
    verdict = judge_report(judged, gate)
    assert verdict.sentence == f"This picture was not accepted: {sentence}."


@patient
@given(reports, gates)
def test_in_shadow_mode_all_is_accepted_and_the_reasons_are_those_of_the_gate(
    judged: Report, gate: Gate
) -> None:
    real, shadow = judge_report(judged, gate), judge_report(judged, replace(gate, shadow=True))
    assert shadow.accepted
    assert shadow.sentence == ""
    prefix = "" if real.accepted else "would be rejected: "
    assert shadow.reasons == tuple(prefix + reason for reason in real.reasons)


def test_shadow_is_a_rule_of_a_policy_file(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("min_score = 3\nshadow = true\n")
    assert load_policy(tmp_path / "p.toml") == Gate(min_score=3, shadow=True)
    with pytest.raises(ConfigError, match="shadow must be true or false"):
        check_gate(Gate(shadow="yes"))  # type: ignore[arg-type]
