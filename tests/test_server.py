"""The live page's server: only its three addresses, only under its own names, only to be read."""

import socket
from pathlib import Path

import pytest
from werkzeug.test import Client

from equipose.errors import ConfigError
from equipose.pages import server

NAMES = {"Host": "127.0.0.1:8765"}


@pytest.fixture
def client(tmp_path: Path) -> Client:
    report = tmp_path / "report.html"
    state = iter(("one", "one", "two"))
    return Client(
        server.application(
            lambda nonce: f"<script nonce={nonce}></script>",
            lambda: next(state),
            lambda: report if report.exists() else None,
        )
    )


def test_no_other_address_leads_anywhere(client: Client) -> None:
    for path in ("/state/", "/report.html", "/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/state%00"):
        assert client.get(path, headers=NAMES).status_code == 404
    assert client.get("/report", headers=NAMES).status_code == 404  # none yet


def test_a_page_from_elsewhere_cannot_read_ours_under_a_name_of_its_own(client: Client) -> None:
    for host in ("evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example", ""):
        assert client.get("/state", headers={"Host": host}).status_code == 400
    assert client.get("/state", headers={"Host": "localhost:9000"}).status_code == 200  # through a tunnel


def test_it_can_only_be_read(client: Client) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert client.open("/", method=method, headers=NAMES).status_code == 405
    assert client.head("/", headers=NAMES).status_code == 200


def test_what_has_not_changed_is_not_sent_again(client: Client) -> None:
    first = client.get("/state", headers=NAMES)
    known = NAMES | {"If-None-Match": first.headers["ETag"]}
    assert first.text == "one" and client.get("/state", headers=known).status_code == 304
    assert client.get("/state", headers=known).text == "two"


def test_the_page_may_load_nothing_and_runs_its_own_script_alone(client: Client, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("report")
    page = client.get("/", headers=NAMES)
    nonce = page.text.split("nonce=")[1].split(">")[0]
    assert f"script-src 'nonce-{nonce}'" in page.headers["Content-Security-Policy"]
    for answered in (page, client.get("/report", headers=NAMES), client.get("/none", headers=NAMES)):
        assert answered.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert answered.headers["X-Content-Type-Options"] == "nosniff"


def test_a_busy_port_is_passed_over_and_none_free_is_one_message(client: Client, monkeypatch) -> None:
    with socket.socket() as busy:
        busy.bind((server.ADDRESS, 0))
        busy.listen()
        taken = busy.getsockname()[1]
        made = server.listen(client.application, taken)
        assert (made.host, made.server_address[0]) == (server.ADDRESS, server.ADDRESS) and made.port > taken
        made.server_close()
        monkeypatch.setattr(server, "PORTS", 1)
        with pytest.raises(ConfigError, match="in use"):
            server.listen(client.application, taken)
