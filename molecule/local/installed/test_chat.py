"""After the first run: the chat answers, in a browser too; nothing secret shows; all is on the loopback interface, in one folder."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
from pathlib import Path

import chat
import local
import pytest
import requests

testinfra_hosts = ["local://"]
CITIES = ["Paris", "London", "Berlin", "Madrid", "Rome", "Vienna", "Prague", "Tokyo", "Sydney", "Toronto", "New York"]


def tool(name="get_weather", argument="city"):
    schema = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": "Weather of a city", "parameters": schema}}


def say(text, **body):
    answer = chat.complete(local.url("vllm-router"), "smoke", key=local.key(), messages=[{"role": "user", "content": text}], **body)
    answer.raise_for_status()
    return answer.json()["choices"][0]["message"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Hello!", "I am the smoke model"),
        ("Who are you?", '"smoke"'),
        ("What can you do?", "ask a weather tool"),
        ("What is the capital of France?", "only know"),
        ("Which of my files shall I delete first, and why?", "only know"),
    ],
)
def test_the_smoke_model_says_who_it_is_and_what_it_does_not_know(question, answer):
    assert answer in say(question)["content"]


@pytest.mark.parametrize("city", CITIES)
def test_the_weather_tool_is_called_for_the_city_that_was_asked(city):
    call = say(f"What is the weather in {city}?", tools=[tool()])["tool_calls"][0]["function"]
    assert call["name"] == "get_weather"
    assert json.loads(call["arguments"]) == {"city": city}


def test_no_tool_is_called_when_none_is_offered():
    message = say("What is the weather in Paris?")
    assert not message.get("tool_calls")
    assert "No weather tool" in message["content"]


def test_answers_are_streamed():
    with chat.complete(local.url("vllm-router"), "smoke", key=local.key(), stream=True) as answer:
        pieces = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    words = [piece["choices"][0]["delta"].get("content") or "" for piece in pieces if piece["choices"]]
    assert len([word for word in words if word]) > 5
    assert "smoke model" in "".join(words)


def test_the_key_is_asked_for():
    assert chat.complete(local.url("vllm-router"), "smoke").status_code == 401


def test_a_chat_answers_through_the_page_and_is_kept():
    page = local.page()
    assert page.models() == ["smoke"]
    answer = page.ask("smoke", "Hello!")
    assert "smoke model" in answer.text
    assert answer.chat in page.chats()


def test_everything_listens_on_the_loopback_interface_only():
    own = set(local.processes())
    listening = 0
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and holder(words[9]) in own:
                listening += 1
                assert words[1].split(":")[0] == loopback, line
    assert listening >= len(local.PROGRAMS)


def holder(inode):
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == Path(f"socket:[{inode}]"):
                return int(link.parts[2])
        except OSError:
            continue
    return None


def test_no_secret_stands_in_a_script_a_log_or_the_process_list():
    values = [local.key(), local.secret("open-webui", "WEBUI_ADMIN_PASSWORD"), local.secret("open-webui", "WEBUI_SECRET_KEY")]
    texts = [subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout]
    for folder in ("bin", "conf.d", "logs"):
        texts += [path.read_text(errors="replace") for path in (local.STATE / folder).iterdir()]
    texts.append((local.STATE / "supervisord.conf").read_text())
    for value in values:
        assert len(value) >= 32
        assert not [text for text in texts if value in text]
    for path in (local.STATE / "secrets").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_no_secret_shows_in_the_most_verbose_output():
    command = [local.ROOT / ".venv/bin/ansible-playbook", "-vvv", "--check", "--diff", "-i", local.ROOT / "inventory.local.yaml"]
    given = "hf_given-by-the-test-0123456789"
    words = ["-e", f"llm_state_dir={local.STATE}", local.ROOT / "playbooks/chat.yml"]
    run = subprocess.run(
        [*command, *words], capture_output=True, text=True, check=False, cwd=local.ROOT, env={**local.environment(), "HF_TOKEN": given}
    )
    assert run.returncode == 0, run.stdout[-2000:]
    for value in (given, local.key(), local.secret("open-webui", "WEBUI_ADMIN_PASSWORD"), local.secret("open-webui", "WEBUI_SECRET_KEY")):
        assert value not in run.stdout + run.stderr


def test_a_second_run_is_refused_while_one_is_at_work():
    runs = [None, None]

    def install(number):
        runs[number] = local.playbook("chat")

    threads = [threading.Thread(target=install, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [run for run in runs if run.returncode]
    assert len(refused) == 1, [run.stdout[-500:] for run in runs]
    assert re.search(r"Failed: Another run works on \S+ since \S+ \(process \d+\)", refused[0].stdout)


def test_killed_programs_come_back_and_the_chat_is_kept():
    page = local.page()
    kept = page.chats()
    before = local.running()
    for program in local.PROGRAMS:
        subprocess.run(["kill", "-9", str(before[program])], check=True)
    assert local.until(lambda: set(now := local.programs()) == local.PROGRAMS and not now.items() & before.items())
    assert local.until(local.answers, 180)
    assert local.until(page_answers, 180)
    assert kept <= local.page().chats()


def test_an_engine_killed_in_the_middle_of_an_answer_does_not_lose_the_chat():
    page = local.page()
    chat_before = page.ask("smoke", "Hello!")
    engine = local.running()["vllm-backend"]
    question = threading.Thread(target=lambda: swallow(lambda: page.ask("smoke", "What can you do?", after=chat_before)))
    question.start()
    subprocess.run(["kill", "-9", str(engine)], check=True)
    question.join()
    assert local.until(local.answers, 180)
    assert page.answer(chat_before.chat, chat_before.message) == chat_before.text
    assert "weather tool" in page.ask("smoke", "What can you do?", after=chat_before).text


def test_after_a_reboot_the_same_command_brings_all_back():
    page = local.page()
    kept, ports = page.chats(), json.loads((local.STATE / "ports.json").read_text())
    for process in local.processes():  # supervisord first, or it starts what is killed anew
        subprocess.run(["kill", "-9", str(process)], stderr=subprocess.DEVNULL, check=False)
    run = local.playbook("chat")
    assert run.returncode == 0, run.stdout[-2000:]
    assert local.answers()
    assert json.loads((local.STATE / "ports.json").read_text()) == ports
    assert kept <= local.page().chats()


def page_answers():
    try:
        return requests.get(f"{local.url('open-webui')}/ready", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def swallow(call):
    with contextlib.suppress(requests.RequestException, KeyError):
        call()
