"""POST /segment over HTTP: one picture through the network of a daemon that serves streams."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from streamseg.client.control import ControlClient
from streamseg.config import EngineConfig
from streamseg.errors import ControlError
from streamseg.evaluation.engines import segment
from streamseg.inference.plans.load import load_engine
from streamseg.types import U8
from streamseg.wire.rle import decode_labels
from tests.integration.console import Alone, Running, live, running
from tests.media import draw_clip
from tests.waiting import LIMIT_S

pytest.importorskip("aiohttp", reason="pip install 'streamseg[web]'")

TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def console(tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    clip = draw_clip(tmp_path_factory.mktemp("clips") / "red.mp4")
    with running(*live(tiny_engine, clip)) as daemon:
        daemon.lines.wait("publishing on")
        yield daemon


class Answer(NamedTuple):
    code: int
    body: bytes
    kind: str
    retry_after: str | None

    @property
    def text(self) -> str:
        return self.body.decode()


def post(url: str, body: bytes, query: str = "", **headers: str) -> Answer:
    sent = {"Content-Type": "application/octet-stream", "Accept": "*/*"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{url}segment{query}", data=body, headers=sent, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return Answer(answer.status, answer.read(), answer.headers["Content-Type"], None)
    except urllib.error.HTTPError as error:
        with error:
            kind, later = error.headers["Content-Type"], error.headers["Retry-After"]
            return Answer(error.code, error.read(), kind, later)


def colours(height: int = 90, width: int = 120) -> U8:
    """RGB: red on the left, blue on the right."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, : width // 2, 0] = 255
    rgb[:, width // 2 :, 2] = 255
    return rgb


def png(rgb: U8) -> bytes:
    return cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()


def test_json_has_the_labels_that_the_engine_gives_by_itself(console: Running, tiny_engine: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 2, (30, 40, 3), np.uint8) * 255
    rgb = cv2.resize(rgb, (160, 120), interpolation=cv2.INTER_NEAREST)
    answer = post(console.url, png(rgb))
    assert (answer.code, answer.kind) == (200, "application/json")
    document = json.loads(answer.body)
    assert document["shape"] == [120, 160]
    assert document["engine"].startswith("tiny/fp32/")
    segments = [(one["id"], one["segmentation"]["counts"]) for one in document["classes"]]
    labels = decode_labels(segments, (120, 160))
    engine = load_engine(EngineConfig(name=str(tiny_engine)))
    assert np.array_equal(labels, segment(engine, rgb))
    engine.close()
    counted = {one["id"]: one["pixels"] for one in document["classes"]}
    assert counted == {int(i): int((labels == i).sum()) for i in np.unique(labels)}
    assert all(one["share"] == round(one["pixels"] / labels.size, 6) for one in document["classes"])
    assert all(0 < one["confidence"] <= 1 for one in document["classes"])
    assert sum(polygon["area"] for polygon in document["polygons"]) == labels.size
    assert "infer" in document["stage_us"]


def test_the_answer_is_what_the_query_or_the_accept_header_asks_for(console: Running) -> None:
    body = png(colours())
    for answer in (post(console.url, body, "?format=png"), post(console.url, body, Accept="image/png")):
        assert (answer.code, answer.kind) == (200, "image/png")
        grey = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)
        assert grey.shape == (90, 120, 3)
    for answer in (
        post(console.url, body, "?format=overlay", Accept="application/json"),
        post(console.url, body, Accept="image/png;q=0.5, image/jpeg, */*;q=0.1"),
    ):
        assert (answer.code, answer.kind) == (200, "image/jpeg")
        assert answer.body.startswith(b"\xff\xd8")
    answer = post(console.url, body, "?format=tiff")
    assert (answer.code, answer.text) == (400, "format: must be one of json, png, overlay; is 'tiff'\n")
    assert post(console.url, body, Accept="text/html").code == 406


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (b"", 415, "the picture is empty (0 bytes)"),
        (b"hello\n", 415, "the picture is not a picture; must be JPEG, PNG, WebP, BMP or TIFF"),
        (png(colours())[:200], 415, "the picture is cut off"),
        (b"\xff\xd8\xff\xe0", 415, "the picture is cut off"),
        (b"\x1f\x8b" + bytes(99), 415, "the picture is compressed by gzip"),
        (b"\0" * (33 << 20), 413, "the picture must have at most 32 MiB"),
        (b"BM" + bytes(16) + (8000).to_bytes(4, "little") * 2, 413, "the picture has 8000x8000 pixels"),
    ],
)
def test_what_is_no_picture_has_one_clear_answer(console: Running, body: bytes, code: int, said: str) -> None:
    answer = post(console.url, body)
    assert answer.code == code
    assert answer.text.startswith(said)
    assert answer.text.count("\n") == 1
    assert post(console.url, png(colours(16, 16))).code == 200  # and it goes on


def test_a_form_is_told_to_send_the_picture_itself(console: Running) -> None:
    answer = post(console.url, b"--x\r\n", Content_Type="multipart/form-data; boundary=x")
    assert answer.code == 415
    assert "curl --data-binary @FILE" in answer.text


def test_pages_of_other_sites_and_other_methods_are_refused(console: Running) -> None:
    body = png(colours(16, 16))
    assert post(console.url, body, Origin="http://evil.example").code == 403
    assert post(console.url, body, Sec_Fetch_Site="cross-site").code == 403
    assert post(console.url, body, Host="evil.example").code == 403
    assert post(console.url, body, Origin=console.url.rstrip("/")).code == 200
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{console.url}segment", timeout=LIMIT_S)
    assert refused.value.code == 405
    refused.value.close()


def test_a_picture_runs_on_the_engine_that_is_named_if_a_stream_does(console: Running) -> None:
    rgb = colours()
    plain, named = post(console.url, png(rgb)), post(console.url, png(rgb), "?engine=default")
    assert json.loads(named.body)["engine"] == json.loads(plain.body)["engine"]
    answer = post(console.url, png(rgb), "?engine=nobody")
    assert answer.code == 400
    assert answer.text == "picture: no stream runs on engine 'nobody'; those that serve: default\n"


def test_pictures_beyond_those_that_may_wait_are_told_to_come_later(console: Running) -> None:
    """Four hold their places by sending slowly; the fifth is refused at once, and then they are served."""
    body = png(colours(16, 16))
    host = console.url.split("/")[2]
    slow = [http.client.HTTPConnection(host, timeout=LIMIT_S) for _ in range(4)]
    for one in slow:
        one.putrequest("POST", "/segment")
        one.putheader("Content-Length", str(len(body)))
        one.endheaders()
        one.send(body[:10])
    answers = [post(console.url, body)]
    while answers[-1].code == 200:  # until all four have been seen
        answers.append(post(console.url, body))
    assert (answers[-1].code, answers[-1].text) == (429, "4 pictures wait already\n")
    assert int(answers[-1].retry_after or 0) >= 1
    for one in slow:
        one.send(body[10:])
        assert one.getresponse().status == 200
        one.close()


def test_many_pictures_at_once_neither_stop_the_stream_nor_break_its_numbers(console: Running) -> None:
    body = png(colours(60, 80))
    codes: list[int] = []

    def hammer() -> None:
        for _ in range(5):
            codes.append(post(console.url, body).code)

    from streamseg.client import subscribe

    with console.control() as daemon:
        endpoint = daemon.status().publisher.endpoint  # type: ignore[union-attr]
    threads = [threading.Thread(target=hammer) for _ in range(6)]
    with subscribe(endpoint, newest=False, queue=10_000) as masks:
        first = next(iter(masks))
        for thread in threads:
            thread.start()
        seen = [first.n]
        while any(thread.is_alive() for thread in threads) or len(seen) < 5:
            seen.append(next(iter(masks)).n)
    assert set(codes) <= {200, 429}
    assert codes.count(200) >= 5
    assert seen == list(range(seen[0], seen[0] + len(seen)))


def test_a_token_is_needed_and_without_a_daemon_one_is_told_so() -> None:
    body = png(colours(16, 16))
    with Alone(token=TOKEN) as alone:
        assert post(alone.url, body).code == 401
        answer = post(alone.url, body, Authorization=f"Bearer {TOKEN}")
        assert answer.code == 503
        assert "no daemon has this socket" in answer.text
        assert answer.retry_after is not None


def test_only_the_daemons_own_user_may_have_a_file_read(console: Running) -> None:
    rgb = colours(20, 30)
    with console.control() as daemon:
        mask, labels = daemon.segment(rgb)
        assert mask.labels.shape == (20, 30)
        assert labels is not None
        assert labels.names[1] == "red"
        endpoint = daemon.endpoint
    with (
        ControlClient(endpoint, remote=True, timeout_s=LIMIT_S) as stranger,
        pytest.raises(ControlError, match="own user"),
    ):
        stranger.segment(rgb)
