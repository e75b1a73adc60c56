"""Key files, lists of keys, and which endpoints need them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import zmq
from click.testing import CliRunner

from streamseg.cli.keygen import command
from streamseg.client import subscribe
from streamseg.config import PublishConfig, parse_config
from streamseg.config.security import is_local
from streamseg.errors import ConfigError, OutputError, UsageError
from streamseg.net.curve_keys import key_or_file, make_keys, parse_keys, public_of, read_key
from streamseg.runtime.files import expand

KEYS = "publish.curve_secret_key_file and publish.allowed_clients"


def test_the_two_files_belong_together_and_the_secret_one_is_the_owners_alone(tmp_path: Path) -> None:
    secret, public = make_keys(tmp_path / "site")
    assert (secret.name, public.name) == ("site.key", "site.pub")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert public_of(read_key(secret, "key")) == read_key(public, "key") == key_or_file(str(public), "key")
    assert read_key(secret, "key").decode() not in public.read_text()


def test_existing_keys_are_never_replaced(tmp_path: Path) -> None:
    secret, public = make_keys(tmp_path / "site")
    before = secret.read_bytes()
    with pytest.raises(OutputError, match=r"site.key: cannot be written"):
        make_keys(tmp_path / "site")
    assert secret.read_bytes() == before
    secret.unlink()
    with pytest.raises(OutputError, match=r"site.pub: cannot be written"):
        make_keys(tmp_path / "site")
    assert not secret.exists()
    assert public.exists()


def test_keygen_says_which_file_is_which(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["--out", str(tmp_path / "robot")])
    assert done.exit_code == 0
    key = read_key(tmp_path / "robot.pub", "key").decode()
    assert done.output.splitlines() == [
        f"{tmp_path}/robot.key: secret; keep it on this machine",
        f"{tmp_path}/robot.pub: public: {key}",
    ]


def test_a_list_has_names_comments_and_keys_that_begin_with_a_hash() -> None:
    key = zmq.curve_keypair()[0].decode()
    odd = "#" + key[1:]
    text = f"# comment\n\n  {key}   the robot  \n{odd}\n#comment without a space\nshort\n"
    assert parse_keys(text) == ({key.encode(): "the robot", odd.encode(): ""}, [5, 6])


def test_variables_in_paths_are_filled_in_and_unset_ones_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    assert expand("$CREDENTIALS_DIRECTORY/curve.key", "s") == "/run/credentials/x/curve.key"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(ConfigError, match=r"^s: \$CREDENTIALS_DIRECTORY/curve.key names a variable"):
        expand("$CREDENTIALS_DIRECTORY/curve.key", "s")


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("tcp://127.0.0.1:5570", True),
        ("tcp://127.8.8.8:0", True),
        ("tcp://localhost:5570", True),
        ("tcp://lo:5570", True),
        ("tcp://[::1]:5570", True),
        ("ipc:///run/masks", True),
        ("tcp://*:5570", False),
        ("tcp://0.0.0.0:5570", False),
        ("tcp://[::]:5570", False),
        ("tcp://10.0.0.7:5570", False),
        ("tcp://eth0:5570", False),
        ("tcp://127.0.0.1.example.org:5570", False),
    ],
)
def test_endpoints_that_other_machines_reach_are_told_apart(endpoint: str, local: bool) -> None:
    assert is_local(endpoint) == local
    if not local:
        with pytest.raises(ConfigError, match=f"publish.endpoint: .*{KEYS}.*insecure = true"):
            PublishConfig(endpoint=endpoint)
        assert PublishConfig(endpoint=endpoint, insecure=True).insecure
        assert PublishConfig(endpoint=endpoint, curve_secret_key_file="k", allowed_clients="c")


def test_an_open_door_is_refused_when_the_file_is_read() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config('[streams.a]\nsource = "x"\n[publish]\nsnapshot_endpoint = "tcp://*:9"\n')
    assert caught.value.problems[0].startswith(
        "publish.snapshot_endpoint: tcp://*:9 is reachable from other machines"
    )


def test_half_of_the_keys_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^publish.allowed_clients: is missing"):
        PublishConfig(curve_secret_key_file="site.key")
    with pytest.raises(ConfigError, match=r"^publish.curve_secret_key_file: is missing"):
        PublishConfig(allowed_clients="clients")


def test_a_subscriber_needs_both_keys(tmp_path: Path) -> None:
    secret, public = make_keys(tmp_path / "robot")
    with pytest.raises(UsageError, match="client_key_file: is missing"):
        subscribe("tcp://127.0.0.1:1", server_key=public)
    with pytest.raises(UsageError, match="server_key: is missing"):
        subscribe("tcp://127.0.0.1:1", client_key_file=secret)
    with pytest.raises(UsageError, match=r"server_key: .* cannot be read"):
        subscribe("tcp://127.0.0.1:1", server_key=tmp_path / "none.pub", client_key_file=secret)
