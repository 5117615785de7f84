"""The server and the command: who is answered, with what, and what is said of a mistake."""

import base64
import gzip
import hashlib
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.plots.palette import COLOURS
from rnnlab.watch import __main__ as command
from rnnlab.watch.page import page
from rnnlab.watch.server import PageServer
from rnnlab.watch.watcher import Watcher
from tests.watch.workdirs import decay, write_run, write_sweep


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    folder = write_sweep(tmp_path_factory.mktemp("watched") / "sweep")
    with PageServer("127.0.0.1", 0, page(), Watcher(folder).answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: PageServer, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    """(Status, headers, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def test_page_is_one_text_that_loads_nothing_but_its_data(server: PageServer) -> None:
    status, headers, body = ask(server, "/")
    text = body.decode()
    assert status == 200
    assert text == page()
    script = text.partition("<script>")[2].partition("</script>")[0]
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{hashed}'" in headers["Content-Security-Policy"]
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", text)
    assert not re.search(r"\bsrc=|@import|url\(|\bon\w+=\"|innerHTML|document\.write|\beval\b", text)
    assert re.findall(r"fetch\(`([^?`]+)", script) == ["/api"]
    assert json.dumps(COLOURS) in script
    assert 'lang="en"' in text
    assert "prefers-color-scheme: dark" in text


def test_every_part_of_the_page_that_the_script_asks_for_is_there() -> None:
    text = page()
    ids = set(re.findall(r'id="(\w+)"', text)) | set(re.findall(r'id: "(\w+)"', text))
    assert set(re.findall(r'\$\("(\w+)"\)', text)) <= ids
    labelled = re.findall(r"<(?:input|select)", text.partition("<script>")[0])
    assert len(labelled) == len(re.findall(r"<label>[^<]*<(?:input|select)", text))


def test_data_are_json_and_small_when_nothing_is_new(server: PageServer) -> None:
    status, headers, body = ask(server, "/api?since=0")
    first = json.loads(body)
    assert (status, headers["Content-Type"], first["kind"]) == (200, "application/json", "sweep")
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers
    words = f"since={first['tick']}&head={first['hash']}&token={first['token']}"
    _, _, body = ask(server, f"/api?{words}")
    assert json.loads(body)["rows"] == []
    assert len(body) < 250
    _, headers, packed = ask(server, "/api?since=0", **{"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed))["rows"] == first["rows"]


def test_another_server_s_token_brings_everything(server: PageServer) -> None:
    everything = json.loads(ask(server, "/api?since=0")[2])
    after = json.loads(ask(server, f"/api?since={everything['tick']}&token=other")[2])
    assert after["curves"] == everything["curves"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:9000", 200),  # A forwarded port has another number.
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("LOCALHOST", 200),
        ("evil.example", 403),
        ("localhost.evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ],
)
def test_only_names_of_this_machine_are_answered(server: PageServer, host: str, status: int) -> None:
    assert ask(server, "/", Host=host)[0] == status
    assert ask(server, "/api?since=0", Host=host)[0] == status


@pytest.mark.parametrize(
    "path", ["/sweep.json", "/../sweep.json", "/%2e%2e/", "/api/", "/api?run=../0000", "//etc/passwd"]
)
def test_no_path_leads_to_a_file(server: PageServer, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("POST", 501), ("PUT", 501), ("DELETE", 501)])
def test_it_is_read_alone(server: PageServer, method: str, status: int) -> None:
    assert ask(server, "/", method)[0] == status


def test_a_number_that_is_none_is_the_asker_s_mistake(server: PageServer) -> None:
    assert ask(server, "/api?since=many")[0] == 400


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def _ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(server: PageServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "serve_forever", interrupted)


@pytest.mark.usefixtures("_ends_at_once")
def test_command_says_where_the_page_is_and_ends_by_ctrl_c(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", decay(5))
    assert command.main([f"--workdir={tmp_path / 'run'}"]) == cli.FINISHED
    printed = capsys.readouterr()
    assert re.fullmatch(rf"watching {tmp_path}/run at http://127\.0\.0\.1:\d+/\n", printed.out)
    assert printed.err == ""
    assert command.main([f"--workdir={tmp_path / 'later'}"]) == cli.FINISHED
    assert f"waiting: {tmp_path}/later does not exist yet\n" in capsys.readouterr().out


@pytest.mark.usefixtures("_ends_at_once")
def test_a_door_for_others_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([f"--workdir={tmp_path / 'run'}", "--host=0.0.0.0"]) == cli.FINISHED
    printed = capsys.readouterr()
    assert "warning: 0.0.0.0: everybody who reaches this machine can read the page" in printed.err
    assert "at http://127.0.0.1:" in printed.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--workdir is missing"),
        (["--workdir={0}/file"], "file is a file, not the folder of a run or a sweep"),
        (
            ["--workdir={0}"],
            "the folder of a run or a sweep: it has no config.json and no sweep.json; in it are run",
        ),
        (["--workdir={0}/run", "--port={1}"], "is in use on 127.0.0.1; take another, or leave --port out"),
        (["--workdir={0}/run", "--port=70000"], "--port"),
        (["--workdir={0}/run", "--host="], "--host is empty; --host=127.0.0.1 is this machine alone"),
        (["--workdir={0}/run", "--host=192.0.2.1"], "this machine has no such address"),
        (["--workdir={0}/run", "--config=x"], "this command takes the config of the run"),
        (["{0}/run"], "unexpected argument"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "file").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=re.escape(message)) as error:
            command.main([word.format(tmp_path, taken.getsockname()[1]) for word in words])
    assert "\n" not in str(error.value)
