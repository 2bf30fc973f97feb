"""`qinsight serve`, a real one, as its clients see it."""

from __future__ import annotations

import asyncio
import hmac
import io
import json
import logging
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image
from qinsight_plugin.integrations.web.app import PAGE, create_app
from qinsight_plugin.integrations.web.keys import Keys
from qinsight_plugin.integrations.web.logs import JsonLines, LossyHandler
from qinsight_plugin.integrations.web.metrics import Metrics, objections
from qinsight_plugin.integrations.web.schemas import Compared, Scores, Trouble, Verdicts
from qinsight_plugin.integrations.web.server import is_loopback, listen, run
from qinsight_plugin.integrations.web.service import Service
from qinsight_plugin.integrations.web.settings import Settings

import qinsight_plugin as qi
from qinsight_plugin.cli.main import cli
from qinsight_plugin.cli.serve_command import command
from qinsight_plugin.errors import ConfigError, MissingExtraError, ServingError
from qinsight_plugin.gate import judge_report
from qinsight_plugin.records import Distortion, Gate, Report, Score, Verdict
from qinsight_plugin.report import to_row

from .abuse import attack, crafted, exchange, png
from .browser import CHROMIUM, launched
from .conftest import Run
from .faults import free_port
from .serving import MULTIPART, Server, jpegs, multipart, post, serving

FILES = jpegs(3)
KEY = "0123456789abcdef-a-key"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Without a policy, and without a key."""
    with serving("--body-seconds", "2", "--max-request", "1") as running:
        yield running


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a policy, and with keys."""
    folder = tmp_path_factory.mktemp("strict")
    (folder / "policy.toml").write_text(
        'min_score = 4.6\nmin_width = 600\nforbid.blur = "slight"\n'
    )
    (folder / "keys").write_text(f"# ours\n{KEY}\nanother-key-for-the-batch\n")
    options = ("--policy", folder / "policy.toml", "--key-file", folder / "keys")
    with serving(*options) as running:
        yield running


def ask(server: Server, path: str, key: str = "", body: bytes | None = None) -> Any:
    """By a client that is not ours: (status, headers, body)."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(server.url + path, body, headers)
    if body is not None:
        request.add_header("Content-Type", "image/jpeg")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def rows(reports: Any) -> list[dict[str, Any]]:
    return [{**to_row(report), "source": None} for report in reports]


@pytest.mark.slow
def test_scores_are_those_of_the_library(server: Server) -> None:
    answer = post(server.port, "/v1/score", FILES[0])
    assert answer.status == 200
    Scores.model_validate_json(answer.body)
    expected = rows(qi.score_many(FILES))
    (row,) = answer.json()["results"]
    assert {**row, "source": None} == expected[0]
    several = multipart(*(("image", f"../{n}.jpg", data) for n, data in enumerate(FILES)))
    answer = post(server.port, "/v1/score?map=true", several, MULTIPART)
    results = answer.json()["results"]
    assert [row["source"] for row in results] == ["0.jpg", "1.jpg", "2.jpg"]
    maps = [row.pop("map") for row in results]
    assert [{**row, "source": None} for row in results] == expected
    drawn = qi.score(FILES[0]).score
    assert drawn is not None
    assert drawn.quality_map is not None
    assert maps[0]["values"] == pytest.approx(drawn.quality_map.ravel().tolist(), abs=0.006)
    assert (maps[0]["height"], maps[0]["width"]) == drawn.quality_map.shape


@pytest.mark.slow
def test_one_bad_picture_among_good_ones_has_an_error_of_its_own(server: Server) -> None:
    mixed = multipart(("image", "a.jpg", FILES[0]), ("image", "b.jpg", b"junk"))
    answer = post(server.port, "/v1/score", mixed, MULTIPART)
    assert answer.status == 200
    assert [r["error_type"] for r in answer.json()["results"]] == [None, "ImageDecodeError"]
    for data, kind in (
        (b"junk", "ImageDecodeError"),
        (b"%PDF-1.5", "ImageUnsupportedError"),
        (png(31, 200, rows=200), "ImageTooSmallError"),
        (png(30_000, 30_000), "ImageTooLargeError"),
    ):
        answer = post(server.port, "/v1/score", data)
        assert answer.status == 422
        Scores.model_validate_json(answer.body)
        assert answer.json()["results"][0]["error_type"] == kind


@pytest.mark.slow
def test_a_request_brings_its_rule_where_there_is_no_policy(server: Server) -> None:
    for limit, accepted in ((1.0, True), (5.0, False)):
        answer = post(server.port, f"/v1/gate?min_score={limit}", FILES[0])
        Verdicts.model_validate_json(answer.body)
        (row,) = answer.json()["results"]
        verdict = judge_report(qi.score(FILES[0]), Gate(min_score=limit))
        assert row["accepted"] is verdict.accepted is accepted
        assert row["reasons"] == list(verdict.reasons)
    (row,) = post(server.port, "/v1/gate?min_score=1", b"junk").json()["results"]
    assert not row["accepted"]
    assert row["reasons"][0].startswith("cannot be scored: image is not a picture")
    assert post(server.port, "/v1/gate", FILES[0]).status == 400


@pytest.mark.slow
def test_comparisons_are_those_of_the_library(server: Server) -> None:
    pair = multipart(("a", "a.jpg", FILES[0]), ("b", "b.jpg", FILES[2]))
    answer = post(server.port, "/v1/compare?margin=0.01", pair, MULTIPART)
    Compared.model_validate_json(answer.body)
    expected = qi.compare(FILES[0], FILES[2], margin=0.01)
    told = answer.json()
    assert (told["better"], told["probability"]) == (expected.better, expected.probability)
    assert [{**told[name], "source": None} for name in "ab"] == rows([expected.a, expected.b])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "detail"),
    [
        ("/v1/score", b"", "image/jpeg", 400, "no body"),
        ("/v1/score", b"x", "text/plain", 415, "send a picture"),
        ("/v1/score", b'{"image": "http://x/"}', "application/json", 403, "fetches nothing"),
        ("/v1/score", b"x", "multipart/form-data", 400, "boundary"),
        ("/v1/score", multipart(("photo", "a", b"x")), MULTIPART, 400, "no field 'photo'"),
        ("/v1/score", multipart(("reference", "a", b"x")), MULTIPART, 400, "no 'image'"),
        ("/v1/score", multipart(*[("image", "a", b"x")] * 17), MULTIPART, 400, "more than 16"),
        ("/v1/score?map=maybe", b"x", "image/png", 400, "map"),
        ("/v1/gate?min_score=nan", b"x", "image/png", 400, "min_score"),
        ("/v1/compare?margin=-1", b"x", "image/png", 400, "margin"),
        ("/v1/compare", b"x", "image/png", 415, "multipart"),
        ("/v1/compare", multipart(("a", "a", FILES[0])), MULTIPART, 400, "no 'b'"),
        (
            "/v1/compare",
            multipart(("a", "a", FILES[0]), ("b", "junk.jpg", b"junk")),
            MULTIPART,
            422,
            "junk.jpg is not a picture",
        ),
        ("/v1/none", b"x", "image/png", 404, "Not Found"),
        ("/healthz", b"x", "image/png", 405, "Method Not Allowed"),
        ("/v1/score", bytes(2**20 + 1), "image/png", 413, "larger than 1048576 bytes"),
    ],
)
def test_a_request_that_is_not_right_is_told_so_in_a_line(
    server: Server, path: str, body: bytes, kind: str, status: int, detail: str
) -> None:
    answer = post(server.port, path, body, kind)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    told = Trouble.model_validate_json(answer.body)
    assert told.status == status
    assert detail in told.detail
    assert "\n" not in told.detail


@pytest.mark.slow
def test_bodies_without_a_declared_length_are_limited_too(server: Server) -> None:
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"80000\r\n" + bytes(0x80000) + b"\r\n"
    answer = asyncio.run(exchange(server.port, head + 3 * chunk))
    assert answer is not None
    assert answer.status == 413
    late = asyncio.run(exchange(server.port, head + b"5\r\nabc"))
    assert late is not None
    assert late.status == 408


@pytest.mark.slow
def test_a_key_is_wanted_for_all_that_costs_or_tells(strict: Server) -> None:
    for path in ("/v1/score", "/v1/gate", "/v1/about", "/metrics"):
        body = FILES[0] if path in ("/v1/score", "/v1/gate") else None
        for key in ("", KEY[:-1], KEY + "x", "another"):
            status, headers, _ = ask(strict, path, key, body)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
        for key in (KEY, "another-key-for-the-batch"):
            assert ask(strict, path, key, body)[0] == 200
    for path in ("/", "/healthz", "/readyz", "/openapi.json"):
        assert ask(strict, path)[0] == 200


@pytest.mark.slow
def test_the_policy_judges_and_is_counted_by_rule(strict: Server) -> None:
    status, _, body = ask(strict, "/v1/gate", KEY, FILES[0])
    (row,) = json.loads(body)["results"]
    assert status == 200
    assert not row["accepted"]
    assert len(row["reasons"]) == 2
    assert ask(strict, "/v1/gate?min_score=1", KEY, FILES[0])[0] == 400
    text = ask(strict, "/metrics", KEY)[2].decode()
    for reason in ("min_score", "min_width"):
        assert f'qinsight_verdict_reasons_total{{reason="{reason}"}}' in text
    for name in ("queue", "decode", "inference", "request"):
        assert f"qinsight_{name}_seconds_bucket" in text


@pytest.mark.slow
def test_the_log_says_what_happened_and_nothing_of_the_picture(server: Server) -> None:
    photo = multipart(("image", "secret-party.jpg", FILES[1]))
    answer = post(server.port, "/v1/gate?min_score=1&secret=party", photo, MULTIPART)
    line = server.request(answer.headers["x-request-id"])
    assert (line["route"], line["status"], line["pictures"]) == ("/v1/gate", 200, 1)
    assert line["accepted"] == 1
    assert line["bytes"] == len(photo)
    assert "party" not in json.dumps(server.log)


@pytest.mark.slow
def test_the_page_loads_nothing_from_elsewhere_and_only_its_own_program(server: Server) -> None:
    _, headers, body = ask(server, "/")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert body == PAGE.read_bytes()
    assert b"https://" not in body.replace(b"http://www.w3.org/2000/svg", b"")


@pytest.mark.slow
@pytest.mark.real
def test_the_api_is_what_its_openapi_says(strict: Server, tmp_path: Path) -> None:
    """By schemathesis: all its checks but that what the schema allows is accepted, for no schema
    tells a picture from junk."""
    pytest.importorskip("schemathesis")
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
            *("run", f"{strict.url}/openapi.json", "--header", f"Authorization: Bearer {KEY}"),
            *("--exclude-checks", "positive_data_acceptance", "--max-examples", "20"),
            *("--seed", "1", "--no-color", "--generation-database", "none"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,  # it leaves a folder behind
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.real
def test_a_picture_dropped_on_the_page_is_judged_there(server: Server, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    photo, junk = tmp_path / "photo.jpg", tmp_path / "junk.jpg"
    photo.write_bytes(FILES[0])
    junk.write_bytes(b"junk")
    errors: list[str] = []
    with playwright.sync_playwright() as driver, launched(driver) as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.url)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "file"
        drop(page, photo)
        page.wait_for_selector("#result:not([hidden])")
        score = qi.score(photo).value
        assert page.inner_text("#score") == f"{score:.2f}"
        assert page.inner_text("#word") == "Accepted"
        assert page.inner_text("#spoken").startswith("Accepted. ")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        plain = page.evaluate("document.getElementById('canvas').toDataURL()")
        page.check("#show")
        assert page.evaluate("document.getElementById('canvas').toDataURL()") != plain
        page.fill("#min", "5")
        page.press("#min", "Enter")
        page.wait_for_selector("#verdict.no")
        assert page.inner_text("#word") == "Rejected"
        assert "below the minimum of 5" in page.inner_text("#reasons")
        drop(page, junk)
        page.wait_for_selector("#trouble:not([hidden])")
        assert "junk.jpg is not a picture" in page.inner_text("#why")
        assert page.is_hidden("#result")
    assert errors == []


def drop(page: Any, path: Path) -> None:
    """As if the file had been dropped from a desktop."""
    transfer = page.evaluate_handle(
        """([bytes, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name, {type: "image/jpeg"}));
            return transfer;
        }""",
        [list(path.read_bytes()), path.name],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


@pytest.mark.slow
def test_among_enemies(server: Server) -> None:
    """A small part of what `python -m tests.abuse` sends."""
    broken = []
    for number in range(120):
        buffer = io.BytesIO()
        kind = ("JPEG", "PNG", "WEBP", "GIF", "TIFF")[number % 5]
        Image.open(io.BytesIO(FILES[number % 3])).resize((96, 96)).save(buffer, kind)
        data = bytearray(buffer.getvalue())
        for place in range(number % 7, len(data), 61):
            data[place] ^= 1 << number % 8
        broken.append(bytes(data))
    attack(broken, crafted(90), turns=1)


# What needs no server.


def test_every_key_is_compared_with_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def recorded(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return original(a, b)

    original = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", recorded)
    keys = Keys(["first-key", "second-key", "third-key"])
    for offered, fits in (("first-key", True), ("third-key", True), ("", False), ("\udc80", False)):
        compared.clear()
        assert keys.admit(offered) is fits
        assert len(compared) == 3
        assert {len(digest) for pair in compared for digest in pair} == {32}


def test_a_key_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes("\ufeffsixteen-letters-a\r\nsixteen-letters-b\r\n".encode())
    assert Settings(key_file=keys).keys() == ("sixteen-letters-a", "sixteen-letters-b")


class SlowToReload:
    """An engine whose first reload takes until it is told to end."""

    pipeline = SimpleNamespace(scorer=SimpleNamespace(spec=SimpleNamespace(version="1")))

    def __init__(self, *_: object, **__: object) -> None:
        self.begun, self.end = threading.Event(), threading.Event()

    def submit(self, _: object) -> list[Future[None]]:
        answer: Future[None] = Future()
        answer.set_result(None)
        return [answer]

    def reload(self) -> None:
        if not self.begun.is_set():
            self.begun.set()
            assert self.end.wait(10)


def test_of_two_reloads_at_once_the_later_policy_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qinsight_plugin.integrations.web.service.Engine", SlowToReload)
    policy = tmp_path / "policy.toml"
    policy.write_text("min_score = 1")
    service = Service(Settings(policy=policy))
    reloads = [threading.Thread(target=service.reload) for _ in range(2)]
    reloads[0].start()
    service.engine.begun.wait(10)
    policy.write_text("min_score = 5")
    reloads[1].start()
    reloads[1].join(0.2)
    service.engine.end.set()
    for thread in reloads:
        thread.join()
    assert service.gate == Gate(min_score=5)


def test_a_failed_reload_is_no_mere_information(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("qinsight_plugin.integrations.web.service.Engine", SlowToReload)
    policy = tmp_path / "policy.toml"
    policy.write_text("min_score = 1")
    service = Service(Settings(policy=policy))
    policy.write_text("min_score = 'x'")
    service.reload()
    assert [(line.levelname, line.message) for line in caplog.records] == [
        ("ERROR", "reload failed")
    ]


def test_the_log_handler_can_be_made_on_python_3_10() -> None:
    """logging's classes take no type arguments there: the whole server would not be imported."""
    assert "__orig_bases__" not in vars(LossyHandler)


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    for text, why in (("", "no key"), ("# a\n", "no key"), ("short\n", "16 or more")):
        keys.write_text(text)
        with pytest.raises(ConfigError, match=why):
            Settings(key_file=keys).keys()
    with pytest.raises(ConfigError, match="cannot be read"):
        Settings(key_file=tmp_path / "none").keys()
    with pytest.raises(ConfigError, match="not both"):
        Settings(policy=tmp_path / "policy.toml", min_score=3).gate()
    with pytest.raises(ConfigError, match="finite"):
        Settings(min_score=float("nan")).gate()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org"])
def test_it_is_not_opened_to_others_by_oversight(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match="--key-file FILE, or --no-key"):
        run(Settings(), host, 0, 1)
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))


@pytest.mark.slow
def test_an_address_that_is_taken_is_told(server: Server, qinsight: Run) -> None:
    with pytest.raises(ServingError, match=r"in use.*; choose another"):
        listen("127.0.0.1", server.port)
    done = qinsight("serve", "--port", str(server.port))
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    done = qinsight("serve", "--port", str(free_port()), "--scorer", "none")
    assert (done.returncode, done.stderr[:23]) == (3, "Error: no scorer is nam")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = CliRunner().invoke(cli, ["serve"])
    assert isinstance(done.exception, MissingExtraError)
    assert "qinsight-plugin[serve]" in str(done.exception)


def test_which_rules_objected() -> None:
    gate = Gate(min_score=3, min_width=600, forbid={"blur": "slight"}, max_drop=1)
    blurred = Score(2.0, (Distortion("blur", "serious"),))
    report = Report("a", "student", blurred, reference_score=Score(2.5), width=500, height=500)
    verdict = judge_report(report, gate)
    assert objections(report, verdict, gate) == ["min_score", "forbid", "min_width"]
    failed = Report("a", "student", error="broken", error_type="ImageDecodeError")
    assert objections(failed, judge_report(failed, gate), gate) == ["unscorable"]
    good = Report("a", "student", Score(4.0, ()), reference_score=Score(4.0, ()), width=700)
    assert objections(good, judge_report(good, gate), gate) == []
    assert objections(good, Verdict("a", False, ("not on Mondays",)), gate) == ["policy"]


def test_a_log_that_cannot_be_written_is_counted_and_nothing_else() -> None:
    lost: list[int] = []
    line = logging.LogRecord("a", logging.INFO, "", 0, "event", None, None)
    stream = io.StringIO()
    handler = LossyHandler(stream, lambda: lost.append(1))
    handler.emit(line)
    assert lost == []
    stream.close()
    handler.emit(line)
    handler.emit(line)
    assert lost == [1, 1]
    assert json.loads(JsonLines().format(line))["event"] == "event"


@pytest.mark.slow
def test_a_server_that_cannot_judge_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("min_scor = 3")
    with pytest.raises(ConfigError, match="did you mean 'min_score'"):
        create_app(Settings(policy=tmp_path / "policy.toml"))


def test_the_readme_names_every_option_and_every_metric() -> None:
    text = (PAGE.parent.parent / "README.md").read_text("utf-8")
    options = {name for option in command.params for name in option.opts if option.name != "help"}
    assert set(re.findall(r"`(--[a-z-]+)`", text)) == options
    metrics = Metrics(lambda: 0, 1)
    known = set(re.findall(r"^# TYPE (qinsight_\w+) ", metrics.text().decode(), re.MULTILINE))
    named = set(re.findall(r"`(qinsight_\w+)", text))
    assert named == {name for name in known if not name.endswith("_created")}


@pytest.mark.slow
def test_the_python_of_the_readme_runs() -> None:
    text = (PAGE.parent.parent / "README.md").read_text("utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        setting = "from django.conf import settings\nsettings.configure()\n"
        code = (setting if "django" in block else "") + block
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
