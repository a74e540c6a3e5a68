"""The explorer's server: its page, and nobody else's questions."""

import http.client
import json
import threading

import pytest

from interp.cli import main
from interp.explore.explorer import Explorer
from interp.explore.pictures import address
from interp.explore.server import LARGEST, Server, serve
from tests.pipelines import pipeline


class Echo(Explorer):
    """An explorer that gives the question back, slowly enough to be asked twice at once."""

    def __init__(self):
        self.under_way, self.most, self.dropped = 0, 0, []

    def answer(self, question):
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        threading.Event().wait(0.02)
        self.under_way -= 1
        return question

    def drop(self, question):
        self.dropped.append(question)


@pytest.fixture(scope="module")
def server():
    with serve(Echo()) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def request(server, method, name, body=None, token=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    own = f"127.0.0.1:{server.server_port}"
    usual = {"Host": own, "Origin": f"http://{own}", "Content-Type": "application/json"}
    headers = {**usual, **{name.replace("_", "-"): value for name, value in headers.items()}}
    path = f"/{server.token if token is None else token}/{name}"
    connection.request(method, path, body, {k: v for k, v in headers.items() if v is not None})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def ask(server, question, **how):
    return request(server, "POST", "ask", json.dumps(question), **how)


@pytest.mark.parametrize("name", ["", "page.js", "explorer.js", "explorer.css"])
def test_the_page_is_served_under_a_policy_and_names_nothing_elsewhere(server, name):
    status, text, headers = request(server, "GET", name)
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "http:" not in text.replace("http://www.w3.org/", "")
    assert "https:" not in text
    assert "innerHTML" not in text
    assert "eval(" not in text


def test_questions_are_answered_one_at_a_time(server):
    questions = [{"id": number, "text": "</script>\u202e"} for number in range(8)]
    answers = {}
    threads = [
        threading.Thread(target=lambda q=q: answers.update({q["id"]: ask(server, q)}))
        for q in questions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [json.loads(answers[q["id"]][1]) for q in questions] == questions
    assert server.explorer.most == 1


def test_a_question_is_dropped_while_another_is_answered(server):
    with server.lock:
        assert ask(server, {"ask": "drop", "id": 3})[0] == 200
    assert server.explorer.dropped == [3]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "how", [{"token": ""}, {"token": "guess"}, {"token": "%C3%BC"}, {"Host": "evil.example"}]
)
def test_without_the_token_or_under_another_host_there_is_nothing(server, method, how):
    name = "ask" if method == "POST" else ""
    assert request(server, method, name, "{}", **how)[0] in (403, 404)


@pytest.mark.parametrize(
    ("body", "how", "status"),
    [
        ("{}", {"Origin": "https://evil.example"}, 403),
        ("{}", {"Origin": None}, 403),
        ("{}", {"Content_Type": "text/plain"}, 403),
        ("{", {}, 400),
        ("[]", {}, 400),
        ("{}", {"Content_Length": str(LARGEST + 1)}, 413),
    ],
)
def test_other_pages_and_other_things_than_questions_are_refused(server, body, how, status):
    assert request(server, "POST", "ask", body, **how)[0] == status


@pytest.mark.parametrize("name", ["../server.py", "explorer.js/", "index.html", "..%2f", "ask"])
def test_only_the_pages_own_files_can_be_had(server, name):
    assert request(server, "GET", name)[0] == 404


def test_it_listens_on_the_loopback_address_alone(server):
    assert server.server_address[0] == "127.0.0.1"


def test_the_command_serves_a_model_and_its_python_begins_with_loading_it(
    capsys, monkeypatch, tmp_path
):
    pipeline("sd1").save_pretrained(tmp_path / "model")
    found = {}

    def ask_and_end(server):
        for ask in ("read", "look"):
            found.update(server.explorer.answer({"ask": ask, "choice": {"text": "a goat"}}))
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", ask_and_end)
    with pytest.raises(SystemExit, match="0"):
        main(["explore", "--model", str(tmp_path / "model"), "--steps", "2", "--no-browser"])
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")
    world = {}
    exec(found["setup"], world)
    assert address(eval(found["line"], world)) == found["without"]
