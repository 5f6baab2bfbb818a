"""Real HTTP servers on this machine: one that speaks as much of OpenAI's protocol as a test needs, and vLLM's own."""

import json
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from divek_verl.cpu.machine import CPU_ENVIRONMENT
from divek_verl.demo.processes import running
from divek_verl.engines.options import EngineOptions
from divek_verl.engines.vllm_engine import engine_arguments

SECONDS_TO_START = 500.0

# What the server does with one request: status, body (JSON, text, bytes or an endless drip), seconds to wait first.
Answer = tuple[int, Any, float]


def completion(texts: Sequence[str], finish: str = "stop", cached: int | None = None) -> dict[str, Any]:
    """A chat completion with one choice a text."""
    choices = [
        {"index": index, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
        for index, text in enumerate(texts)
    ]
    usage: dict[str, Any] = {"prompt_tokens": 11, "completion_tokens": 3 * len(texts), "total_tokens": 0}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices, "usage": usage}


def refusal(message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}


class Drip:
    """A body of which one byte comes every 50 ms: no single read takes long."""


class Script:
    """Answers one request after the other; the last answer stays. ``requests`` holds the bodies that came."""

    def __init__(self, *answers: Answer | Callable[[dict[str, Any]], Answer]) -> None:
        self.answers = list(answers)
        self.requests: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> Answer:
        with self._lock:
            self.requests.append(body)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(body) if callable(answer) else answer


class AtWork:
    """Answers after a moment, and counts the requests and how many were at work at one time."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.count = self.most = self._now = 0
        self._lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> Answer:
        with self._lock:
            self.count += 1
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.05)
        with self._lock:
            self._now -= 1
        return self.answer


@contextmanager
def serving(script: Callable[[dict[str, Any]], Answer], models: Any = None) -> Iterator[str]:
    """The base URL of a server that answers chat completions by ``script`` and lists one model, or sends ``models``."""
    listing = {"object": "list", "data": [{"id": "m", "object": "model"}]} if models is None else models

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, listing)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer, pause = script(body)
            time.sleep(pause)
            self._send(status, answer)

        def _send(self, status: int, answer: Any) -> None:
            drips = isinstance(answer, Drip)
            as_json = not isinstance(answer, str | bytes | Drip)
            text = json.dumps(answer) if as_json else " " * 1000 if drips else answer
            content = text.encode() if isinstance(text, str) else text
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json" if as_json else "text/html")
                self.send_header("Content-Length", str(len(content)))
                # The client waits as long as the server asks; without it, half a second and more.
                self.send_header("Retry-After-Ms", "1")
                self.end_headers()
                for number in range(len(content) if drips else 0):
                    self.wfile.write(content[number : number + 1])
                    time.sleep(0.05)
                self.wfile.write(b"" if drips else content)
            except ConnectionError:
                return  # the client gave up

        def log_message(self, *_: Any) -> None:
            """Nothing on the screen."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def vllm_server(model: Path, *names: str) -> Iterator[str]:
    """The base URL of vLLM's own server with a model under these names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--served-model-name", *names]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    for name, value in engine_arguments(EngineOptions(str(model), max_model_len=2048), on_cpu=True).items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{option}" if value else f"--no-{option}")
        else:
            command += [f"--{option}", json.dumps(value) if isinstance(value, dict) else str(value)]
    log = model.parent / "server.log"
    with running(command, log, {**CPU_ENVIRONMENT, "OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + SECONDS_TO_START
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")[-4000:]
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
