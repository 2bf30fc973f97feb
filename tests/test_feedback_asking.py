"""Who is asked what, in which order, and what the page's server says to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qinsight_plugin.feedback.app import make_app
from qinsight_plugin.feedback.asking import OUTLOOK, Asker
from qinsight_plugin.feedback.pool import fill_pool
from qinsight_plugin.feedback.questions import Question
from qinsight_plugin.feedback.store import Store
from qinsight_plugin.feedback.study import Block, Golden, Study

COUNT = 12
ANSWERS = {"rating": 4, "pair": "left", "best": 0, "severity": "none", "adjust": 1.0}
SLIDER = {"parameter": "exposure", "label": "exposure", "low": -1.0, "high": 1.0, "start": 0.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for k in range(COUNT):
        pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k:02}.png")
    return tmp_path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "answers.sqlite")) as store:
        store.extend_pool([f"{k:02}.png" for k in range(COUNT)], "test")
        yield store


def all_asked(asker: Asker, rater: int) -> list[Question]:
    """Every question, each answered as it comes."""
    asked = []
    while questions := asker.outlook(rater):
        assert len(questions) <= OUTLOOK
        asked.append(questions[0])
        asker.store.answer(questions[0].number, ANSWERS[questions[0].kind], 1.0)
    return asked


@given(
    count=st.integers(1, 60),
    repeat=st.floats(0, 0.5),
    practice=st.integers(0, 5),
    rater=st.integers(1, 9),
)
def test_a_schedule_has_what_was_ordered_and_is_always_the_same(
    count: int, repeat: float, practice: int, rater: int
) -> None:
    golden = [Golden("rating", ("a",), 3.0)] * 3
    study = Study([Block("rating", count)], golden, practice=practice, repeat=repeat)
    roles = study.schedule(study.blocks[0], rater)
    told = Counter(roles)
    assert told["main"] == count
    assert told["golden"] == 3
    assert told["repeat"] == round(repeat * count)
    assert roles[: told["practice"]] == ["practice"] * min(practice, count)
    assert roles == study.schedule(study.blocks[0], rater)


def test_everyone_rates_each_picture_once_in_an_order_of_their_own(
    store: Store, folder: Path
) -> None:
    asker = Asker(Study([Block("rating", COUNT)], repeat=0.25), store, folder)
    orders = []
    for name in ("ann", "ben"):
        asked = all_asked(asker, store.rater(name).number)
        main = [q.pictures[0].path for q in asked if q.role == "main"]
        again = [q.pictures[0].path for q in asked if q.role == "repeat"]
        assert sorted(main) == [f"{k:02}.png" for k in range(COUNT)]
        assert len(again) == len(set(again)) == 3
        orders.append(main)
    assert orders[0] != orders[1]


def test_no_pair_comes_twice_but_for_repetition_with_the_sides_exchanged(
    store: Store, folder: Path
) -> None:
    asker = Asker(Study([Block("pair", 30)], repeat=0.2, compared=COUNT), store, folder)
    asked = all_asked(asker, store.rater("ann").number)
    shown = {
        role: [tuple(p.path for p in q.pictures) for q in asked if q.role == role]
        for role in ("main", "repeat")
    }
    assert len({frozenset(pair) for pair in shown["main"]}) == 30
    assert len(shown["repeat"]) == 6
    assert all(pair[::-1] in shown["main"] for pair in shown["repeat"])


def test_all_kinds_end_and_are_counted(store: Store, folder: Path) -> None:
    blocks = [
        Block("rating", 3),
        Block("pair", 3),
        Block("best", 2),
        Block("severity", 2, {"distortion": "blur"}),
        Block("severity", 2, {"distortion": "noise"}),
        Block("adjust", 2, SLIDER),
    ]
    golden = [Golden("rating", ("01.png",), 2.0), Golden("pair", ("01.png", "02.png"), "left")]
    asker = Asker(Study(blocks, golden, practice=1, repeat=0), store, folder)
    rater = store.rater("ann").number
    asked = all_asked(asker, rater)
    progress = asker.progress(rater)
    assert len(asked) == 14 + 6 + 2
    assert (progress.done, progress.total, progress.block) == (22, 22, None)
    assert [q.truth for q in asked if q.role == "golden"] == [2.0, "left"]


def test_a_study_goes_on_where_another_process_left_it(store: Store, folder: Path) -> None:
    study = Study([Block("rating", 5), Block("pair", 5)], practice=1)
    rater = store.rater("ann").number
    before = Asker(study, store, folder).outlook(rater)
    store.answer(before[0].number, 4, 1.0)
    assert Asker(study, store, folder).outlook(rater)[0] == before[1]


def test_a_picture_that_is_gone_or_changed_is_asked_about_no_more(
    store: Store, folder: Path
) -> None:
    asker = Asker(Study([Block("rating", COUNT)], practice=0, repeat=0), store, folder)
    rater = store.rater("ann").number
    first, second = (question.pictures[0].path for question in asker.outlook(rater))
    (folder / first).unlink()
    Image.new("RGB", (48, 48), "red").save(folder / second)
    shown = {q.pictures[0].path: q.pictures[0].digest for q in asker.outlook(rater)}
    assert first not in shown
    asked = all_asked(asker, rater)
    assert len(asked) == COUNT - 1  # the new picture of the second name is another question
    assert asker.outlook(rater) == []


def test_what_cannot_be_shown_is_named_once(store: Store, folder: Path) -> None:
    (folder / "03.png").unlink()
    told: list[tuple[str, str]] = []
    study = Study([Block("rating", COUNT)], practice=0, repeat=0)
    asker = Asker(study, store, folder, lambda path, why: told.append((path, why)))
    for name in ("ann", "ben"):
        assert len(all_asked(asker, store.rater(name).number)) == COUNT - 1
    assert [path for path, _ in told] == ["03.png"]
    assert "does not exist" in told[0][1]


def test_a_pool_that_grows_keeps_its_order_and_leaves_out_what_is_broken(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    (folder / "bad.png").write_bytes(b"no picture")
    listing = [*(f"{k:02}.png" for k in range(COUNT)), "bad.png"]
    failed: list[str] = []
    with closing(Store(tmp_path / "other.sqlite")) as other:

        def fill(wanted: int) -> list[str]:
            fill_pool(
                other,
                folder,
                listing,
                wanted,
                lambda paths: list(range(len(paths)))[::-1],
                lambda path, error: failed.append(path) if error else None,
            )
            return other.pool()

        few, many = fill(4), fill(100)
    assert len(few) == 4
    assert many[:4] == few
    assert sorted(many) == listing[:-1]
    assert failed == ["bad.png", "bad.png"]


# The server


Post = Callable[[str, dict[str, Any]], Any]


@pytest.fixture
def client(store: Store, folder: Path) -> Iterator[TestClient]:
    study = Study([Block("rating", 3), Block("adjust", 1, SLIDER)], practice=1, repeat=0)
    with TestClient(make_app(Asker(study, store, folder))) as client:
        yield client


def test_a_page_is_answered_through_and_nothing_tells_which_questions_are_golden(
    client: TestClient, store: Store
) -> None:
    token = store.rater("ann").token
    assert client.get(f"/r/{token}").status_code == 200
    state = client.post(f"/api/{token}/open", json={"window": "w"}).json()
    while state["questions"]:
        question = state["questions"][0]
        assert set(question) == {"number", "kind", "practice", "about", "truth", "pictures"}
        assert client.get(question["pictures"][0]).headers["content-type"] == "image/png"
        value = ANSWERS[question["kind"]]
        if question["kind"] == "adjust":
            shown = client.get(f"/adjusted/{token}/{question['number']}?value={value}")
            assert shown.headers["content-type"] == "image/png"
            assert client.get(f"/adjusted/{token}/{question['number']}?value=7").status_code == 422
        body = {"window": "w", "question": question["number"], "value": value, "seconds": 1.5}
        state = client.post(f"/api/{token}/answer", json=body).json()
        assert client.post(f"/api/{token}/answer", json=body).json()["done"] == state["done"]
    assert state["done"] == state["total"] == len(store.answers()) == 3 + 1 + 1 + 1


def test_the_second_window_of_a_link_takes_over_and_the_first_is_told(
    client: TestClient, store: Store
) -> None:
    token = store.rater("ann").token
    number = client.post(f"/api/{token}/open", json={"window": "1"}).json()["questions"][0][
        "number"
    ]
    client.post(f"/api/{token}/open", json={"window": "2"})
    body = {"question": number, "value": 3, "seconds": 1.0}
    assert client.post(f"/api/{token}/answer", json={"window": "1", **body}).status_code == 409
    assert client.post(f"/api/{token}/undo", json={"window": "1"}).status_code == 409
    assert store.answers() == []
    assert client.post(f"/api/{token}/answer", json={"window": "2", **body}).status_code == 200
    assert len(store.answers()) == 1


def test_nobody_answers_or_sees_for_another(client: TestClient, store: Store) -> None:
    ann, ben = store.rater("ann").token, store.rater("ben").token
    number = client.post(f"/api/{ann}/open", json={"window": "w"}).json()["questions"][0]["number"]
    body = {"window": "w", "question": number, "value": 3, "seconds": 1.0}
    assert client.post(f"/api/{ben}/answer", json=body).status_code == 404
    assert client.get(f"/picture/{ben}/{number}/0").status_code == 404
    assert client.get(f"/picture/{ann}/{number}/1").status_code == 404
    assert client.get("/r/guessed").status_code == 404
    assert client.get("/page/..%2Fapp.py").status_code == 404


def test_what_is_no_answer_is_refused(client: TestClient, store: Store) -> None:
    token = store.rater("ann").token
    number = client.post(f"/api/{token}/open", json={"window": "w"}).json()["questions"][0][
        "number"
    ]
    for value in (9, "good", None, {"a": 1}):
        body = {"window": "w", "question": number, "value": value, "seconds": 1.0}
        assert client.post(f"/api/{token}/answer", json=body).status_code == 422
    assert store.answers() == []


@pytest.mark.parametrize(
    ("key", "text"),
    [("seconds", "NaN"), ("seconds", "Infinity"), ("question", str(10**23)), ("question", "-1")],
)
def test_numbers_that_cannot_be_kept_are_refused(
    client: TestClient, store: Store, key: str, text: str
) -> None:
    token = store.rater("ann").token
    number = client.post(f"/api/{token}/open", json={"window": "w"}).json()["questions"][0][
        "number"
    ]
    fields = {"window": '"w"', "question": str(number), "value": "3", "seconds": "1.0", key: text}
    body = "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"
    reply = client.post(
        f"/api/{token}/answer", content=body, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 422
    assert client.get(f"/picture/{token}/{10**23}/0").status_code == 422
    assert client.get(f"/adjusted/{token}/{10**23}?value=0").status_code == 422
    assert store.answers() == []


def test_a_picture_that_changed_while_it_was_shown_is_not_served(
    client: TestClient, store: Store, folder: Path
) -> None:
    token = store.rater("ann").token
    question = client.post(f"/api/{token}/open", json={"window": "w"}).json()["questions"][0]
    shown = store.question(question["number"])
    assert shown is not None
    Image.new("RGB", (48, 48), "red").save(folder / shown.pictures[0].path)
    reply = client.get(question["pictures"][0])
    assert reply.status_code == 410
    assert "has changed" in reply.json()["detail"]
