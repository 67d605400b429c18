"""What the scenarios' tests ask: as a user would, by kubectl and by HTTP."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import typing
import uuid

import requests

TIMEOUT_S = 120


def kubectl(*words, stdin=None):
    """Run kubectl; return its output, as JSON where that was asked for."""
    out = subprocess.run(["kubectl", *words], check=True, capture_output=True, text=True, input=stdin).stdout
    return json.loads(out) if "json" in words else out


def get(namespace, kind):
    return kubectl("-n", namespace, "get", kind, "-o", "json")["items"]


def names(namespace, kind):
    return {item["metadata"]["name"] for item in get(namespace, kind)}


def secret(namespace, name, key):
    command = f"kubectl -n {namespace} get secret {name} -o jsonpath='{{.data.{key}}}' | base64 -d"
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def last_words(output):
    """The lines that a run ends with, for whoever looks at nothing else."""
    return [line for line in output.rpartition("PLAY RECAP")[2].splitlines()[1:] if line and "ok=" not in line]


@contextlib.contextmanager
def port_forward(namespace, target, port):
    """Give the URL of a port-forward of kubectl."""
    command = ["kubectl", "-n", namespace, "port-forward", target, f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
            yield f"http://127.0.0.1:{found.group(1)}"
        finally:
            process.terminate()


class Answer(typing.NamedTuple):
    """An answer: its text, and where it is kept."""

    chat: str
    message: str
    text: str


class OpenWebUI:
    """Open WebUI's own API, as its page uses it."""

    def __init__(self, url, email, password):
        self.url = url
        self.http = requests.Session()
        answer = self.http.post(f"{url}/api/v1/auths/signin", json={"email": email, "password": password}, timeout=TIMEOUT_S)
        answer.raise_for_status()
        self.http.headers["Authorization"] = f"Bearer {answer.json()['token']}"

    def config(self):
        return self.http.get(f"{self.url}/api/config", timeout=TIMEOUT_S).json()

    def models(self):
        return [model["id"] for model in self.http.get(f"{self.url}/api/models", timeout=TIMEOUT_S).json()["data"]]

    def ask(self, model, question, after=None):
        """Ask in a chat that is kept, a new one or that of the answer *after*, and wait for the answer."""
        user, assistant = str(uuid.uuid4()), str(uuid.uuid4())
        parent = after.message if after else None
        message = {
            "id": user,
            "parentId": parent,
            "childrenIds": [],
            "role": "user",
            "content": question,
            "timestamp": 1,
            "models": [model],
        }
        body = {
            "model": model,
            "stream": True,
            "parent_id": parent,
            "id": assistant,
            "user_message": message,
            "messages": [{"role": "user", "content": question}],
            **({"chat_id": after.chat} if after else {}),
        }
        before = self.chats()
        self.http.post(f"{self.url}/api/chat/completions", json=body, timeout=TIMEOUT_S).raise_for_status()
        # the page sorts chats by the second, so the first one need not be the newest
        kept = after.chat if after else (self.chats() - before).pop()
        return Answer(kept, assistant, self.answer(kept, assistant))

    def answer(self, chat, message):
        kept = self.http.get(f"{self.url}/api/v1/chats/{chat}", timeout=TIMEOUT_S).json()
        return kept["chat"]["history"]["messages"][message]["content"]

    def chats(self):
        return {chat["id"] for chat in self.http.get(f"{self.url}/api/v1/chats/", timeout=TIMEOUT_S).json()}


def complete(url, model, key=None, session=None, **body):
    """One chat completion at an OpenAI-compatible URL; the response, whatever its status."""
    headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **({"X-Session-ID": session} if session else {})}
    question = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 64, "temperature": 0, **body}
    return requests.post(f"{url}/v1/chat/completions", json=question, headers=headers, timeout=TIMEOUT_S)
