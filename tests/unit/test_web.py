"""The console's parts without sockets: access, frames, viewers, health, metrics, set-up."""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streamseg.config import WebConfig, parse_config
from streamseg.errors import ConfigError
from streamseg.runtime.counters import BOUNDS_US, ProgressWatch
from streamseg.types import Mask
from streamseg.web.setup import WebSetup, connectable, host_and_port, read_token, trusts_its_network
from streamseg.wire import encode_mask, encode_picture, encode_same
from streamseg.wire.control import ControlStatus, EngineStatus, PublisherStatus, Status
from streamseg.wire.status import Histogram, StreamStatus
from streamseg.wire.zones import Zone, ZoneClass, ZoneShares
from tests.masks import make_mask, make_picture

pytest.importorskip("aiohttp", reason="pip install 'streamseg[web]'")
pytest.importorskip("prometheus_client", reason="pip install 'streamseg[web]'")

from streamseg.web.access import Access, behind_tls, page_problem
from streamseg.web.connections import peer_of
from streamseg.web.feed import Feed
from streamseg.web.frames import Shown
from streamseg.web.metrics import MOST_SHARES, STUCK_AFTER_S, exposition, unhealthy, unready
from streamseg.web.pages import STATIC
from streamseg.web.server import _status
from streamseg.web.viewer import (
    FORM_FIELDS,
    MAX_TEXTS,
    Do,
    Drawn,
    Slow,
    Tile,
    Viewer,
    Watch,
    parse_page_message,
)

TOKEN = "a-token-that-is-long-enough"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:5580", "localhost:5580", "[::1]:5580", "192.168.1.7", "box.localhost", "LOCALHOST:1"],
)
def test_names_that_nobody_else_can_point_at_us_are_answered(host: str) -> None:
    assert Access("").host_problem(host) == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:5580",
        "127.0.0.1.evil.example",
        "",
        "localhost.evil.example",
        "evil.example/@127.0.0.1",
        "127.0.0.1:x",
        "[::1",
        "[evil.example]",
        "http://[",
        "\udcff\udcfe",
        "127.0.0.1\x00",
    ],
)
def test_a_foreign_name_is_dns_rebinding(host: str) -> None:
    assert "web.token_file" in Access("").host_problem(host)
    assert Access("").host_problem(host).isascii()


def test_with_a_token_or_in_a_trusted_network_any_name_is_answered() -> None:
    assert Access(TOKEN).host_problem("console.example") == ""
    assert Access("", any_name=True).host_problem("box.example:5580") == ""


@pytest.mark.parametrize(
    ("listen", "insecure", "trusted"),
    [
        ("0.0.0.0:5580", True, True),
        ("[::]:5580", True, True),
        ("192.168.1.7:5580", True, True),
        ("box.example:5580", True, True),
        ("127.0.0.1:5580", True, False),
        ("[::1]:5580", True, False),
        ("localhost:5580", True, False),
        ("0.0.0.0:5580", False, False),
    ],
)
def test_a_console_on_loopback_is_never_open_to_any_name(listen: str, insecure: bool, trusted: bool) -> None:
    assert trusts_its_network(WebSetup(listen=listen, insecure=insecure, control="x")) is trusted


@pytest.mark.parametrize(
    ("headers", "ours"),
    [
        ({"Host": "127.0.0.1:5580"}, True),
        ({"Host": "127.0.0.1:5580", "Origin": "http://127.0.0.1:5580"}, True),
        ({"Host": "127.0.0.1:5580", "Origin": "http://127.0.0.1:5581"}, False),
        ({"Host": "127.0.0.1:5580", "Origin": "http://127.0.0.1"}, False),
        ({"Host": "127.0.0.1:5580", "Origin": "http://evil.example"}, False),
        ({"Host": "127.0.0.1:5580", "Origin": "null"}, False),
        ({"Host": "127.0.0.1:5580", "Origin": "file://127.0.0.1:5580"}, False),
        ({"Host": "127.0.0.1:5580", "Origin": "http://["}, False),
        ({"Host": "127.0.0.1:5580", "Origin": "http://127.0.0.1:x"}, False),
        ({"Host": "[", "Origin": "http://["}, False),
        ({"Host": "", "Origin": "http://"}, False),
        ({"Host": "\udcff", "Origin": "http://\udcfe"}, False),
        ({"Host": "site.example:443", "Origin": "https://site.example"}, True),
        ({"Host": "site.example", "Origin": "https://site.example:443"}, True),
        ({"Host": "Site.Example", "Origin": "https://site.example"}, True),
        ({"Host": "site.example:80", "Origin": "http://site.example"}, True),
        ({"Host": "site.example:80", "Origin": "https://site.example"}, False),
        ({"Host": "site.example:8443", "Origin": "https://site.example"}, False),
        ({"Host": "127.0.0.1:5580", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Host": "127.0.0.1:5580", "Sec-Fetch-Site": "same-site"}, False),
        ({"Host": "127.0.0.1:5580", "Sec-Fetch-Site": "same-origin"}, True),
    ],
)
def test_only_our_own_page_may_connect(headers: dict[str, str], ours: bool) -> None:
    assert (page_problem(headers) == "") is ours
    assert page_problem(headers).isascii()


def test_a_proxy_that_changes_the_host_is_told_so() -> None:
    problem = page_problem({"Host": "127.0.0.1:5580", "Origin": "https://site.example"})
    assert "'https://site.example'" in problem
    assert "must pass the Host header on" in problem


def test_the_token_opens_as_bearer_or_by_the_cookie_and_nothing_else_does() -> None:
    access = Access(TOKEN)
    assert access.knows({"Authorization": f"Bearer {TOKEN}"}, {})
    assert access.knows({}, {access.cookie: access.session})
    assert not access.knows({}, {})
    assert not access.knows({"Authorization": "Bearer ü"}, {access.cookie: TOKEN})
    assert not access.knows({"Authorization": "Bearer \udcff\ud800"}, {access.cookie: "\udcff\udfff"})
    assert not access.knows({"Authorization": f"Basic {TOKEN}"}, {access.cookie: Access(TOKEN + "x").session})
    assert TOKEN not in access.session
    assert Access("").knows({}, {})


def test_each_console_has_a_cookie_of_its_own() -> None:
    consoles = [Access(TOKEN, port=5580), Access(TOKEN, port=5581), Access(TOKEN + "x", port=5580)]
    names = {access.cookie for access in consoles}
    assert len(names) == 3
    assert all(re.fullmatch(r"[a-z0-9_]+", name) and TOKEN not in name for name in names)


def test_a_cookie_is_secure_where_the_browser_came_by_https() -> None:
    assert behind_tls({"X-Forwarded-Proto": "https"})
    assert behind_tls({"Origin": "https://site.example"})
    assert not behind_tls({"Origin": "http://127.0.0.1:5580"})
    assert not behind_tls({})


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        (("10.0.0.7", 5), "10.0.0.7"),
        (("::ffff:10.0.0.7", 5), "10.0.0.7"),
        (("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::"),
        (("2001:db8:1:2:ffff::1", 5), "2001:db8:1:2::"),
        (("fe80::1%eth0", 5), "fe80::"),
        (("::1", 5), "::"),
    ],
)
def test_the_addresses_of_one_ipv6_network_are_one_peer(address: tuple[str, int], peer: str) -> None:
    assert peer_of(address) == peer


def read(message: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(message[:4], "little")
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def test_a_frame_is_its_labels_without_loss_and_then_its_picture() -> None:
    mask = make_mask(5, size=(48, 64), run=7)
    labels, picture = Shown(mask, make_picture(5)).messages(1)
    header, payload = read(labels)
    assert (header["stream"], header["seq"], header["shape"], header["picture"]) == (
        "gate",
        5,
        [48, 64],
        True,
    )
    assert zlib.decompress(payload) == mask.labels.tobytes()
    header, payload = read(picture)
    assert (header["kind"], header["seq"]) == ("picture", 5)
    assert payload == make_picture(5).jpeg


def test_a_narrow_tile_gets_every_kth_pixel_of_a_wide_mask() -> None:
    mask = make_mask(5, size=(480, 1930))
    shown = Shown(mask, None)
    (message,) = shown.messages(shown.step(width=640))
    header, payload = read(message)
    assert header["mask_shape"] == [480, 1930]
    assert header["picture"] is False
    sent = np.frombuffer(zlib.decompress(payload), np.uint8).reshape(header["shape"])
    assert (sent == mask.labels[1::3, 1::3]).all()


def with_viewer(check: Any) -> None:
    async def run() -> None:
        feed = Feed(lambda *_: None, lambda _: None)
        try:
            await check(Viewer(feed))
        finally:
            await feed.close()

    asyncio.run(run())


def seq_of(messages: str | list[bytes]) -> int:
    assert isinstance(messages, list)
    seq: int = read(messages[0])[0]["seq"]
    return seq


def test_a_slow_browser_gets_the_newest_frame_and_never_a_queue() -> None:
    async def check(viewer: Viewer) -> None:
        viewer.watch(Watch(tiles={"gate": Tile()}))
        sent = []
        for seq in range(100):
            viewer.show("gate", Shown(make_mask(seq), None))
            if seq < 2:
                sent.append(seq_of(await viewer.next()))
        assert sent == [0, 1]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(viewer.next(), 0.05)  # two are on their way
        viewer.drawn(Drawn("gate"))
        assert seq_of(await viewer.next()) == 99

    with_viewer(check)


def test_a_page_gets_the_labels_of_unchanged_frames_once() -> None:
    async def check(viewer: Viewer) -> None:
        async def sent(mask: Mask, tile: Tile) -> tuple[bool, int | None]:
            viewer.watch(Watch(tiles={"gate": tile}))
            viewer.show("gate", Shown(mask, None))
            (message,) = await viewer.next()
            viewer.drawn(Drawn("gate"))
            header, payload = read(message)  # type: ignore[arg-type]
            assert header["kept"] == (payload == b"")
            return header["kept"], header["same_as"]

        mask, wide, narrow = make_mask(3, size=(48, 1300)), Tile(), Tile(width=64)
        later = [replace(make_mask(seq, same_as=3), labels=mask.labels) for seq in range(4, 9)]
        assert await sent(mask, wide) == (False, None)
        assert await sent(later[0], wide) == (True, 3)
        assert await sent(later[1], narrow) == (False, 3)  # other pixels
        assert await sent(later[2], narrow) == (True, 3)
        viewer.watch(Watch(tiles={}))  # the tile left the screen
        assert await sent(later[3], narrow) == (False, 3)
        assert await sent(replace(later[4], labels=mask.labels.copy()), narrow) == (False, 3)

    with_viewer(check)


def fed(*messages: tuple[list[bytes], bool]) -> list[Shown]:
    """What a feed shows of stream gate's messages, each of which is (its parts, from a snapshot)."""
    shown: list[Shown] = []

    async def run() -> None:
        feed = Feed(lambda _, one: shown.append(one), lambda _: None)
        feed.watch("gate", True, False)
        for parts, snapshot in messages:
            feed._take(parts, snapshot)
        await feed.close()

    asyncio.run(run())
    return shown


def test_an_unchanged_frame_is_shown_with_its_own_picture_and_the_labels_that_hold() -> None:
    mask, refined = make_mask(3, n=1), make_mask(3, n=1, revision=1, refined_seq=3)
    messages = [encode_mask(mask, "raw"), encode_picture(make_picture(3, n=1))]
    for seq in (4, 5):
        messages += [encode_same(make_mask(seq, n=1, same_as=3)), encode_picture(make_picture(seq, n=1))]
    messages += [encode_mask(refined, "raw", kind="refined")]
    messages += [encode_same(make_mask(6, n=1, same_as=3)), encode_picture(make_picture(6, n=1))]
    shown = fed(*((parts, False) for parts in messages))
    assert [(s.mask.seq, s.mask.revision, s.mask.same_as, s.mask.refined_seq) for s in shown] == [
        (3, 0, None, None), (4, 0, 3, None), (5, 0, 3, None), (3, 1, None, 3), (6, 0, 3, 3),
    ]  # fmt: skip
    assert [s.picture.seq for s in shown if s.picture] == [3, 4, 5, 3, 6]
    assert shown[1].mask.labels is shown[2].mask.labels
    assert (shown[2].mask.labels == mask.labels).all()


def test_a_snapshot_shows_the_last_unchanged_frame_and_others_are_passed_over() -> None:
    def unchanged(seq: int, **fields: Any) -> list[bytes]:
        return encode_same(make_mask(seq, n=1, same_as=3, **fields))

    mask = encode_mask(make_mask(3, n=1), "raw")
    shown = fed((mask, True), (unchanged(8), True), (unchanged(7), True), (unchanged(9, run=8), False))
    assert [s.mask.seq for s in shown] == [3, 8]
    assert not fed((unchanged(8), True), (unchanged(9), False))  # its mask has not come


def test_every_tile_has_its_turn() -> None:
    async def check(viewer: Viewer) -> None:
        viewer.watch(Watch(tiles={"gate": Tile(), "yard": Tile()}))
        streams = []
        for seq in range(6):
            for stream in ("gate", "yard"):
                viewer.show(stream, Shown(make_mask(seq, stream=stream), None))
            message = await viewer.next()
            header = read(message[0])[0]  # type: ignore[arg-type]
            streams.append(header["stream"])
            viewer.drawn(Drawn(header["stream"]))
        assert sorted(streams) == ["gate"] * 3 + ["yard"] * 3

    with_viewer(check)


def test_what_is_not_looked_at_is_not_sent_and_acknowledgements_cannot_be_saved_up() -> None:
    async def check(viewer: Viewer) -> None:
        viewer.show("gate", Shown(make_mask(0), None))
        viewer.watch(Watch(tiles={"gate": Tile()}))
        viewer.show("gate", Shown(make_mask(1, revision=1), None))  # revision 1 was not asked for
        for _ in range(50):
            viewer.drawn(Drawn("gate"))
        for seq in (2, 3):
            viewer.show("gate", Shown(make_mask(seq), None))
            assert seq_of(await viewer.next()) == seq
        viewer.show("gate", Shown(make_mask(4), None))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(viewer.next(), 0.05)

    with_viewer(check)


def test_a_browser_that_reads_nothing_is_let_go() -> None:
    async def check(viewer: Viewer) -> None:
        for _ in range(MAX_TEXTS):
            viewer.send({"type": "pong"})
        with pytest.raises(Slow):
            viewer.send({"type": "pong"})

    with_viewer(check)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"type": "watch"}',
        '{"type": "nothing"}',
        '{"type": "do", "id": 1, "what": "reload", "stream": "gate"}',
        '{"type": "watch", "tiles": {"gate": {"width": 0}}}',
        '{"type": "drawn", "stream": "gate", "revision": 2}',
        "{" * 5000,
    ],
)
def test_what_no_page_of_ours_says_is_refused(text: str) -> None:
    with pytest.raises(msgspec.MsgspecError):
        parse_page_message(text)


@pytest.mark.parametrize(
    "key", ["password_file", "timeout_s", "hwaccel", "remote", "self", "stream", "\x1b[2J"]
)
def test_a_page_sets_only_what_its_form_has_a_field_for(key: str) -> None:
    do = Do(id=1, what="add", stream="gate", settings={"source": "demo:", "loop": True, key: "x"})
    (problem,) = do.problems()
    assert repr(key) in problem
    assert "\x1b" not in problem
    assert not Do(id=1, what="add", stream="gate", settings={"source": "demo:", "max_fps": 5}).problems()


def test_the_form_has_the_fields_that_a_page_may_set() -> None:
    form = (STATIC / "index.html").read_text().partition('id="add-form"')[2].partition("</form>")[0]
    assert set(re.findall(r'name="(\w+)"', form)) == FORM_FIELDS | {"stream"}


def status(**fields: Any) -> Status:
    gate: dict[str, Any] = {"stream": "gate", "source": "demo:", "state": "playing", **fields}
    return Status(
        streamseg="0.1.0", pid=1, name="site", state="running", started_unix_ns=1, uptime_s=5.0,
        log_level="info", memory_bytes=1 << 20, cpu_s=1.5, threads=9, open_files=12,
        engine=EngineStatus(id="tiny/fp32/onnx", device="cpu", state="running"),
        publisher=PublisherStatus(
            run=1, endpoint="x", snapshot_endpoint="y", subscribers=3, connections=6, published=7, refined=0,
            messages=9, snapshots=0, refused=0, denied=0, hung_up=0,
        ),
        control=ControlStatus(endpoint="z"), streams={"gate": StreamStatus(**gate)},
    )  # fmt: skip


def test_a_page_gets_the_status_of_streams_with_a_gate_and_without() -> None:
    for fields in ({}, {"unchanged": 7, "unchanged_share": 0.5}):
        (told,) = msgspec.json.decode(msgspec.json.encode(_status(status(**fields))))["streams"]
        assert {key: told[key] for key in told if "unchanged" in key} == fields


def test_a_route_that_moves_or_has_nothing_to_do_is_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr("streamseg.runtime.counters.time.monotonic", lambda: now_s)
    watch = ProgressWatch()
    for now_s, decoded, published in ((0.0, 5, 4), (60.0, 9, 8), (120.0, 9, 9), (300.0, 9, 9)):  # noqa: B007
        assert unhealthy(status(decoded=decoded, published=published), watch) == ""
    now_s = 301.0
    assert unhealthy(status(decoded=12, published=9, drops={"slow engine": 2}), watch) == ""
    now_s += STUCK_AFTER_S + 1
    stuck = status(decoded=14, published=9, drops={"slow engine": 4})  # overtaking is no progress
    assert "none was published for" in unhealthy(stuck, watch)


def test_who_is_not_ready_says_why() -> None:
    assert unready(status()) == ""
    starting = msgspec.structs.replace(
        status(), state="starting", publisher=None, engine=EngineStatus(id="tiny", state="building")
    )
    assert unready(starting) == "starting: engine tiny building"


def test_metrics_are_what_prometheus_reads() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    counts = [0] * (len(BOUNDS_US) + 1)
    counts[3], counts[-1] = 4, 1
    body, content_type = exposition(
        status(
            fps=8.0, age_ms=45.0, published=7, decoded=9, drops={"stale": 2}, reconnects=1,
            histograms={"infer": Histogram(counts=counts, sum_us=5_000_000)},
        ),
        "text/plain",
    )  # fmt: skip
    assert content_type.startswith("text/plain")
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert found["streamseg_up",] == 1
    assert found["streamseg_stream_fps", "gate"] == 8
    assert found["streamseg_mask_age_seconds", "gate"] == 0.045
    assert found["streamseg_frames_dropped_total", "gate", "stale"] == 2
    assert found["streamseg_stream_state", "gate", "playing"] == 1
    assert found["streamseg_stage_seconds_bucket", "0.005", "gate", "infer"] == 0
    assert found["streamseg_stage_seconds_bucket", "0.01", "gate", "infer"] == 4
    assert found["streamseg_stage_seconds_bucket", "+Inf", "gate", "infer"] == 5
    assert found["streamseg_stage_seconds_sum", "gate", "infer"] == 5
    assert found["streamseg_subscribers",] == 3


def shares(age_s: float = 1.0, classes: int = 2, zones: int = 1) -> ZoneShares:
    """A picture with a class that is absent, and zones with their ground."""
    road = ZoneClass(id=0, name="class 0", pixels=60, share=0.6, square_m=30.0)
    picture = Zone(zone="picture", pixels=100, unknown=40, square_m=None, classes=[road])
    others = [Zone(zone=f"z{i}", pixels=60, unknown=0, square_m=30.0, classes=[road]) for i in range(zones)]
    return ZoneShares(
        age_s=age_s, classes=[f"class {i}" for i in range(classes)], zones=[picture, *others], dropped=7
    )


def zone_metrics(**streams: ZoneShares) -> dict[tuple[str, ...], float]:
    from prometheus_client.parser import text_string_to_metric_families

    order = ("stream", "zone", "class")
    body, _ = exposition(msgspec.structs.replace(status(), shares=streams), "text/plain")
    return {
        (sample.name, *(sample.labels[key] for key in order if key in sample.labels)): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if "zone" in sample.name or "uncounted" in sample.name
    }


def test_shares_of_zones_are_metrics_those_of_absent_classes_too() -> None:
    assert zone_metrics(gate=shares()) == {
        ("streamseg_zone_share", "gate", "picture", "class 0"): 0.6,
        ("streamseg_zone_share", "gate", "picture", "class 1"): 0.0,
        ("streamseg_zone_share", "gate", "z0", "class 0"): 1.0,
        ("streamseg_zone_share", "gate", "z0", "class 1"): 0.0,
        ("streamseg_zone_square_metres", "gate", "z0", "class 0"): 30.0,
        ("streamseg_zone_square_metres", "gate", "z0", "class 1"): 0.0,
        ("streamseg_zone_unknown", "gate", "picture"): 0.4,
        ("streamseg_zone_unknown", "gate", "z0"): 0.0,
        ("streamseg_zone_age_seconds", "gate"): 1.0,
        ("streamseg_masks_uncounted_total", "gate"): 7.0,
    }


def test_a_silent_stream_has_an_age_and_no_shares() -> None:
    found = zone_metrics(gate=shares(age_s=61.0))
    assert set(found) == {("streamseg_zone_age_seconds", "gate"), ("streamseg_masks_uncounted_total", "gate")}


def test_the_series_of_zones_are_bounded_and_what_is_left_out_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        found = zone_metrics(**{f"s{i}": shares(classes=171, zones=64) for i in range(3)})
        assert 0.9 * MOST_SHARES < len(found) <= MOST_SHARES + 6
    assert [r.getMessage()[:34] for r in caplog.records if "left out" in r.getMessage()] == [
        "metrics: the shares of 183 zones are"[:34]
    ]


def test_without_a_daemon_only_that_is_told() -> None:
    body, _ = exposition(None, "")
    assert b"streamseg_up 0.0" in body
    assert b"streamseg_subscribers" not in body


def test_a_missing_extra_is_said_in_one_line_and_the_daemon_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from streamseg.daemon.web import console_of

    config = parse_config('[streams.a]\nsource = "demo:"\n[web]\nlisten = "127.0.0.1:5580"')
    monkeypatch.setattr("streamseg.web.setup.NEEDS", ("aiohttp", "no_such_library"))
    assert console_of(config, "ipc:///x") is None
    (line,) = [r.message for r in caplog.records if r.name == "streamseg.daemon.web"]
    assert "no_such_library not installed; pip install 'streamseg[web]'" in line


@pytest.mark.parametrize(
    ("bound", "to"),
    [
        ("tcp://0.0.0.0:5570", "tcp://127.0.0.1:5570"),
        ("tcp://[::]:5570", "tcp://[::1]:5570"),
        ("tcp://10.0.0.7:5570", "tcp://10.0.0.7:5570"),
        ("ipc:///run/x", "ipc:///run/x"),
    ],
)
def test_what_is_bound_everywhere_is_reached_here(bound: str, to: str) -> None:
    assert connectable(bound) == to


def web(text: str) -> WebConfig:
    return parse_config(f'[streams.a]\nsource = "demo:"\n[web]\n{text}').web


def test_an_address_of_other_machines_needs_a_token_or_insecure() -> None:
    with pytest.raises(ConfigError, match=r"web\.listen: 0\.0\.0\.0:5580 is reachable from other machines"):
        web('listen = "0.0.0.0:5580"')
    assert web('listen = "0.0.0.0:5580"\ninsecure = true').listen == "0.0.0.0:5580"
    assert host_and_port(web('listen = "[::1]:5580"').listen) == ("::1", 5580)
    for wrong in ("5580", "localhost", "http://localhost:5580", "a b:1"):
        with pytest.raises(ConfigError, match=r"web\.listen: must be text \(HOST:PORT"):
            web(f'listen = "{wrong}"')


def test_a_token_file_is_one_long_word_that_others_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    config = WebConfig(listen="127.0.0.1:1", token_file=str(path))
    for text, reason in ((None, "cannot be read"), ("short", "at least 16"), ("two words " * 4, "one word")):
        if text is not None:
            path.write_text(text)
        with pytest.raises(ConfigError, match=reason):
            read_token(config)
    path.write_text(TOKEN + "\n")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="every user may read it"):
        read_token(config)
    path.chmod(0o600)
    assert read_token(config) == TOKEN
    assert read_token(WebConfig()) == ""
