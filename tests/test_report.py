from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.records import Cost, Distortion, Report, Score, Verdict
from qinsight_plugin.report import (
    CsvWriter,
    JsonlWriter,
    JsonWriter,
    ReasonsWriter,
    ReportWriter,
    TableWriter,
    from_dict,
    to_dict,
    to_row,
)
from qinsight_plugin.report.table import printable, shorten, text_width

SOUND = Report(
    "pics/a.jpg",
    "student",
    Score(
        2.3098437786102295,
        (Distortion("blur", "serious"), Distortion("noise", "slight")),
        0.34,
        (0.2, 0.5, 0.1, 0.19, 0.01),
        reasoning="The edges are soft.",
        cost=Cost(2, 1, 800, 90, 1.5),
    ),
    Score(4.0, ()),
    640,
    480,
    "JPEG",
    ("frame 1 of 12", "alpha over white"),
    scorer_version="sha256:0af3",
    blocks={"size": {"bytes": 12}},
)
FAILED = Report("b.jpg", "student", error="b.jpg is truncated", error_type="ImageDecodeError")
REFUSAL = Verdict(
    "pics/a.jpg",
    False,
    ("score 2.31 is below the minimum of 3.5", "serious blur"),
    "It is blurred; choose a sharper one.",
)

# How long an example takes tells how busy the machine is, and nothing of what is tested here.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

finite = st.floats(allow_nan=False, allow_infinity=False)
file_names = st.binary(min_size=1).map(os.fsdecode)  # lone surrogates stand for undecodable bytes
texts = st.text() | file_names
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
scores = st.builds(
    Score,
    finite,
    st.none() | st.lists(st.builds(Distortion, texts, texts), max_size=3).map(tuple),
    st.none() | st.floats(0, allow_infinity=False),
    st.none() | st.tuples(*[st.floats(0, 1)] * 5),
    st.just(np.ones((3, 3), np.float32)),
    st.none() | texts,
    st.none() | st.builds(Cost, *[st.integers(0, 10**6)] * 4, st.floats(0, 1e6)),
)
outcomes: list[dict[str, Any]] = [
    {"score": st.none() | scores},
    {"error": texts, "error_type": st.none() | texts},
]
reports = st.one_of(
    [
        st.builds(
            Report,
            source=texts,
            scorer=texts,
            scorer_version=texts,
            reference_score=st.none() | scores,
            width=st.integers(min_value=0),
            height=st.integers(min_value=0),
            format=texts,
            notes=st.lists(texts, max_size=3).map(tuple),
            blocks=st.dictionaries(st.text(), json_values, max_size=3),
            **outcome,
        )
        for outcome in outcomes
    ]
)
verdicts = st.builds(Verdict, texts, st.booleans(), st.lists(texts, max_size=3).map(tuple))
judged = st.lists(st.tuples(reports, st.none() | verdicts), max_size=3)


def written(
    kind: type[ReportWriter], rows: list[tuple[Report, Verdict | None]], **options: Any
) -> str:
    stream = io.StringIO()
    with kind(stream, **options) as writer:
        for report, verdict in rows:
            writer.write(report, verdict)
    return stream.getvalue()


@patient
@given(reports)
def test_a_report_comes_back_from_json_as_it_was(report: Report) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(report)))) == report


@patient
@given(reports, verdicts)
def test_a_report_comes_back_from_a_row_with_its_verdict(report: Report, verdict: Verdict) -> None:
    row = json.loads(json.dumps(to_row(report, verdict)))
    assert (row["accepted"], tuple(row["reasons"])) == (verdict.accepted, verdict.reasons)
    assert from_dict(row) == report


def test_a_row_is_flat_where_users_look() -> None:
    assert to_row(SOUND, REFUSAL) == {
        "source": "pics/a.jpg",
        "score": 2.3098437786102295,
        "uncertainty": 0.34,
        "levels": [0.2, 0.5, 0.1, 0.19, 0.01],
        "explanation": "2.3 ± 0.3: serious blur and slight noise",
        "error": None,
        "error_type": None,
        "scorer": "student",
        "scorer_version": "sha256:0af3",
        "reference_score": 4.0,
        "reference_uncertainty": None,
        "reference_levels": None,
        "reasoning": "The edges are soft.",
        "cost": {
            "replies": 2,
            "unreadable": 1,
            "prompt_tokens": 800,
            "completion_tokens": 90,
            "seconds": 1.5,
        },
        "reference_reasoning": None,
        "reference_cost": None,
        "width": 640,
        "height": 480,
        "format": "JPEG",
        "distortions": [
            {"name": "blur", "severity": "serious"},
            {"name": "noise", "severity": "slight"},
        ],
        "reference_distortions": [],
        "notes": ["frame 1 of 12", "alpha over white"],
        "blocks": {"size": {"bytes": 12}},
        "accepted": False,
        "reasons": ["score 2.31 is below the minimum of 3.5", "serious blur"],
        "sentence": "It is blurred; choose a sharper one.",
    }
    assert "accepted" not in to_row(SOUND)


def test_an_explanation_names_the_place_and_whoever_reads_it_cannot() -> None:
    quality_map = np.full((6, 6), 3, np.float32)
    quality_map[:, :2] = 2
    score = Score(2.4, (Distortion("blur", "obvious"),), 0.3, (0.2, 0.4, 0.2, 0.2, 0), quality_map)
    row = to_dict(Report("a", "student", score))
    assert row["explanation"] == "2.4 ± 0.3: obvious blur, worst on the left"
    again = from_dict(row)
    assert again.score is not None
    assert again.score.quality_map is None
    assert to_dict(again)["explanation"] == "2.4 ± 0.3: obvious blur"
    table = written(TableWriter, [(Report("a", "student", score), None)])
    assert table.endswith("   2.40  0.30  obvious blur, worst on the left\n")


def test_a_dict_shares_nothing_with_its_report() -> None:
    blocks: dict[str, Any] = {"size": {"bytes": 12}}
    to_dict(Report("a", "student", blocks=blocks))["blocks"]["size"]["bytes"] = 0
    assert blocks == {"size": {"bytes": 12}}


@pytest.mark.parametrize(
    "report",
    [
        Report("a", "student", Score(math.nan)),
        Report("a", "student", Score(1.0), Score(math.inf)),
        Report("a", "student", Score(math.nan, (), math.nan, (math.nan,) * 5)),
        Report("a", "student", Score(1.0, uncertainty=math.inf)),
        Report("a", "student", blocks={"x": [math.nan]}),
        Report("a", "student", blocks={"x": object()}),
    ],
)
def test_what_json_cannot_hold_is_refused_and_named(report: Report) -> None:
    with pytest.raises(ConfigError, match=r"^the report of 'a' cannot be written as JSON: [^\n]+$"):
        to_dict(report)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"source": None}, "'source' of a report must be text"),
        ({"score": "3"}, "'score' of a report must be a finite number or null"),
        ({"score": True}, "'score' of a report must be a finite number or null"),
        ({"score": math.nan}, "'score' of a report must be a finite number or null"),
        ({"score": 10**400}, "'score' of a report must be a finite number or null"),
        ({"score": None}, "a report with 'uncertainty' needs 'score' too"),
        ({"reference_score": None}, "a report with 'reference_distortions' needs 'reference_sc"),
        ({"uncertainty": -0.1}, "'uncertainty' of a report must be a finite number from 0 up"),
        ({"uncertainty": math.nan}, "'uncertainty' of a report must be a finite number from 0 up"),
        ({"levels": [0.5, 0.5]}, "'levels' of a report must be a list of 5 finite numbers or null"),
        ({"reasoning": 3}, "'reasoning' of a report must be text or null"),
        ({"cost": {"replies": 1}}, "'cost' of a report must be an object of numbers or null"),
        ({"levels": ["1"] * 5}, "'levels' of a report must be a list of 5 finite numbers or null"),
        ({"explanation": 3}, "'explanation' of a report must be text or null"),
        ({"error": "lost"}, "a report has a score or an error, not both"),
        ({"width": -1}, "'width' of a report must be a whole number from 0 up"),
        ({"width": 1.5}, "'width' of a report must be a whole number from 0 up"),
        ({"height": True}, "'height' of a report must be a whole number from 0 up"),
        ({"notes": "one"}, "'notes' of a report must be a list of texts"),
        ({"distortions": [{"name": "blur"}]}, "'distortions' of a report must be a list"),
        ({"distortions": ["blur"]}, "'distortions' of a report must be a list"),
        ({"blocks": []}, "'blocks' of a report must be an object"),
        ({"blocks": {"x": math.inf}}, "'blocks' of a report cannot be written as JSON"),
        ({"scores": 1}, "a report has no key 'scores'; it has source, score, "),
    ],
)
def test_a_dict_that_is_not_a_report_is_refused_in_one_line(
    change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(to_dict(SOUND) | change)
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("junk", [None, 3, "text", [], [["source", "a"]], {}, {"source": "a"}])
def test_junk_is_refused(junk: Any) -> None:
    with pytest.raises(ConfigError, match=r"^a report "):
        from_dict(junk)


@patient
@given(st.dictionaries(st.sampled_from(list(to_dict(SOUND))), json_values))
def test_any_json_object_is_a_report_or_a_config_error(row: dict[str, Any]) -> None:
    try:
        report = from_dict({"source": "a", "scorer": "student"} | row)
    except ConfigError:
        return
    assert from_dict(to_dict(report)) == report


def test_keys_left_out_default_as_in_a_report() -> None:
    assert from_dict({"source": "a", "scorer": "student"}) == Report("a", "student")


@patient
@given(judged)
def test_json_is_a_list_of_the_rows(rows: list[tuple[Report, Verdict | None]]) -> None:
    assert json.loads(written(JsonWriter, rows)) == [to_row(*row) for row in rows]


@patient
@given(judged)
def test_json_lines_are_the_rows(rows: list[tuple[Report, Verdict | None]]) -> None:
    lines = written(JsonlWriter, rows).splitlines()
    assert [json.loads(line) for line in lines] == [to_row(*row) for row in rows]


def test_json_is_valid_even_when_empty_and_when_the_work_failed_midway() -> None:
    assert json.loads(written(JsonWriter, [])) == []
    stream = io.StringIO()
    with suppress(KeyError), JsonWriter(stream) as writer:
        writer.write(FAILED)
        raise KeyError
    assert json.loads(stream.getvalue()) == [to_row(FAILED)]


def test_a_report_that_json_cannot_hold_leaves_the_list_as_it_was() -> None:
    stream = io.StringIO()
    with JsonWriter(stream) as writer:
        with pytest.raises(ConfigError):
            writer.write(Report("a", "student", Score(math.nan)))
        writer.write(FAILED)
    assert json.loads(stream.getvalue()) == [to_row(FAILED)]


@pytest.mark.parametrize("kind", [JsonWriter, JsonlWriter, CsvWriter, TableWriter])
def test_a_row_can_be_read_as_soon_as_it_is_written(
    kind: type[ReportWriter], tmp_path: Path
) -> None:
    path = tmp_path / "report"
    with path.open("w", encoding="utf-8") as stream, kind(stream) as writer:
        for number in range(3):
            writer.write(Report(f"{number}.jpg", "student", Score(3.0)))
            assert f"{number}.jpg" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", [JsonWriter, JsonlWriter, CsvWriter, TableWriter])
def test_a_closed_writer_closes_again_in_silence_and_writes_no_more(
    kind: type[ReportWriter],
) -> None:
    stream = io.StringIO()
    writer = kind(stream)
    writer.close()
    before = stream.getvalue()
    writer.close()
    with pytest.raises(ConfigError, match="after its document was closed"):
        writer.write(FAILED)
    assert stream.getvalue() == before


@pytest.mark.parametrize("kind", [JsonWriter, JsonlWriter, CsvWriter, TableWriter])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "cp1252"])
def test_no_file_name_is_too_odd_for_the_streams_encoding(
    kind: type[ReportWriter], encoding: str
) -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding)
    with kind(stream) as writer:
        writer.write(Report("é漢\udcff.jpg", "student", Score(3.0)))
    assert rb"\udcff.jpg" in buffer.getvalue()


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_has_a_row_a_report_in_fixed_columns() -> None:
    plain, refused, broken = parsed(
        written(CsvWriter, [(SOUND, None), (SOUND, REFUSAL), (FAILED, None)])
    )
    assert refused == {
        "source": "pics/a.jpg",
        "score": "2.3098437786102295",
        "uncertainty": "0.34",
        "levels": "0.2; 0.5; 0.1; 0.19; 0.01",
        "explanation": "2.3 ± 0.3: serious blur and slight noise",
        "error": "",
        "error_type": "",
        "scorer": "student",
        "scorer_version": "sha256:0af3",
        "reference_score": "4.0",
        "reference_uncertainty": "",
        "reference_levels": "",
        "reasoning": "The edges are soft.",
        "cost": '{"replies": 2, "unreadable": 1, "prompt_tokens": 800, "completion_tokens": 90, '
        '"seconds": 1.5}',
        "reference_reasoning": "",
        "reference_cost": "",
        "width": "640",
        "height": "480",
        "format": "JPEG",
        "distortions": "serious blur; slight noise",
        "reference_distortions": "",
        "notes": "frame 1 of 12; alpha over white",
        "blocks": '{"size": {"bytes": 12}}',
        "accepted": "false",
        "reasons": "score 2.31 is below the minimum of 3.5; serious blur",
        "sentence": "It is blurred; choose a sharper one.",
    }
    assert plain == refused | {"accepted": "", "reasons": "", "sentence": ""}
    assert (broken["score"], broken["error"]) == ("", "b.jpg is truncated")


def test_csv_without_reports_is_a_header() -> None:
    (line,) = written(CsvWriter, []).splitlines()
    assert line.startswith('"source","score",')


@pytest.mark.parametrize("name", ['a,"b";c.jpg', "line\nbreak.jpg", "return\rline.jpg", "\r\n.jpg"])
def test_a_file_name_cannot_start_a_cell_or_a_row_of_csv(name: str) -> None:
    row, after = parsed(written(CsvWriter, [(Report(name, "student"), None), (FAILED, None)]))
    assert row["source"].removeprefix("./") == name
    assert after["source"] == "b.jpg"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such file names")
@pytest.mark.parametrize(
    "name", ["=1+1.jpg", "+1.jpg", "-rf.jpg", "@sum.jpg", "\t=1.jpg", "\uff1d1.jpg"]
)
def test_a_file_name_cannot_become_a_formula_and_still_names_its_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    (row,) = parsed(written(CsvWriter, [(Report(name, "student"), None)]))
    assert row["source"].startswith("./")
    assert os.path.samefile(row["source"], name)  # noqa: PTH121 - as a script would


def test_prose_cannot_become_a_formula_and_a_negative_score_stays_a_number() -> None:
    report = Report("a.jpg", "psnr", Score(-3.5), notes=("=1+1",))
    (row,) = parsed(written(CsvWriter, [(report, None)]))
    assert row["notes"] == "'=1+1"
    assert float(row["score"]) == -3.5


def test_a_table_is_aligned_and_says_what_is_wrong() -> None:
    rows = [
        (SOUND, None),
        (FAILED, None),
        (SOUND, REFUSAL),
        (Report("c.jpg", "student", Score(5.0)), Verdict("c.jpg", True)),
        (Report("d.jpg", "student", Score(-12.25, ())), None),
    ]
    assert written(TableWriter, rows, width=40).splitlines() == [
        "source                  score     ±  what is wrong",
        "pics/a.jpg               2.31  0.34  serious blur and slight noise",
        "b.jpg                       -        b.jpg is truncated",
        "pics/a.jpg               2.31  0.34  rejected: score 2.31 is below the minimum of 3.5; "
        "serious blur",
        "c.jpg                    5.00        accepted",
        "d.jpg                  -12.25",
    ]


def test_a_long_path_is_shortened_in_the_middle() -> None:
    report = Report("holiday/2024/summer/IMG_0001.jpg", "student", Score(3.0))
    _, line = written(TableWriter, [(report, None)], width=40).splitlines()
    assert line == "holiday/..._0001.jpg     3.00"


def test_wide_characters_keep_the_columns_aligned() -> None:
    report = Report("漢字.jpg", "student", Score(3.0))
    _, line = written(TableWriter, [(report, None)], width=40).splitlines()
    assert line == "漢字.jpg" + " " * 12 + "     3.00"


@patient
@given(texts, st.integers(8, 60))
def test_a_shortened_text_fits_and_keeps_its_ends(text: str, width: int) -> None:
    plain = printable(text)
    shown = shorten(plain, width)
    assert text_width(shown) <= width
    # The text may have dots of its own around the ellipsis.
    places = [at for at in range(1, len(shown) - 3) if shown[at : at + 3] == "..."]
    assert shown == plain or any(
        plain.startswith(shown[:at]) and plain.endswith(shown[at + 3 :]) for at in places
    )


@patient
@given(texts, texts)
def test_a_hostile_name_or_error_cannot_act_on_the_terminal(name: str, error: str) -> None:
    table = written(TableWriter, [(Report(name, "student", error=error), None)])
    assert table.count("\n") == 2
    assert table.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[2J.jpg", r"\x1b[2J.jpg"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("a\u2066b\u200f", r"a\u2066b\u200f"),
        ("a\nb\x9b.jpg", r"a\nb\x9b.jpg"),
        ("\udcff.jpg", r"\udcff.jpg"),
        ("C:\\Fotos\\Größe 漢.jpg", "C:\\Fotos\\Größe 漢.jpg"),
    ],
)
def test_unprintable_characters_are_shown_escaped_and_others_as_they_are(
    name: str, shown: str
) -> None:
    assert printable(name) == shown


def test_reasons_are_a_paragraph_a_report() -> None:
    told = written(ReasonsWriter, [(SOUND, None), (SOUND, REFUSAL), (FAILED, None)], width=40)
    assert told == (
        "pics/a.jpg: 2.3 ± 0.3: serious blur and slight noise\n"
        "  The edges are soft.\n"
        "  frame 1 of 12\n"
        "  alpha over white\n"
        "  (2 replies, 1 unreadable, 800 tokens\n"
        "  read, 90 written, 1.5 s)\n"
        "pics/a.jpg: rejected: score 2.31 is below the minimum of 3.5; serious blur\n"
        "  The edges are soft.\n"
        '  To the uploader: "It is blurred;\n'
        '  choose a sharper one."\n'
        "  frame 1 of 12\n"
        "  alpha over white\n"
        "  (2 replies, 1 unreadable, 800 tokens\n"
        "  read, 90 written, 1.5 s)\n"
        "b.jpg: b.jpg is truncated\n"
    )


def test_what_a_model_wrote_cannot_act_on_the_terminal() -> None:
    nasty = Report("a.jpg", "s", Score(3.0, reasoning="one\x1b[2J\n\n\u202etwo"))
    assert written(ReasonsWriter, [(nasty, None)], width=40) == (
        "a.jpg: 3.00\n  one\\x1b[2J\n  \\u202etwo\n"
    )
