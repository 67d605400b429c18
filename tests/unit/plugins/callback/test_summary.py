from __future__ import annotations

import types

import pytest
from ansible_collections.llmops.serving.plugins.callback.summary import CallbackModule, first_lines


@pytest.fixture
def callback():
    plugin = CallbackModule()
    plugin.lines = []
    plugin._display = types.SimpleNamespace(display=lambda text, **_color: plugin.lines.append(text))
    return plugin


def stats(changed=0, failures=0, **summary):
    return types.SimpleNamespace(
        failures={"h": failures} if failures else {},
        dark={},
        changed={"h": changed},
        processed={"h": 1},
        custom={"h": {"serving_summary": summary}} if summary else {},
    )


def failure(message, host="h"):
    return types.SimpleNamespace(host=host, result={"msg": message})


def test_pairs_are_aligned(callback):
    callback.v2_playbook_on_stats(stats(changed=1, Chat="http://x", Model="smoke"))
    assert callback.lines == ["Chat   http://x", "Model  smoke"]


def test_a_run_that_changed_nothing_says_so(callback):
    callback.v2_playbook_on_stats(stats(Chat="http://x"))
    assert callback.lines[-1].startswith("Nothing was changed")


def test_what_ended_the_run_is_repeated_last(callback):
    for message in ("was rescued", "first\n\nline two"):
        callback.v2_runner_on_failed(failure(message))
    callback.v2_runner_on_failed(failure("rescued, and went on", host="other"))
    callback.v2_playbook_on_stats(stats(failures=1, Chat="http://x"))
    assert callback.lines == ["Failed: first\nline two"]


def test_of_a_loop_the_first_turn_that_failed_is_repeated(callback):
    found = failure("One or more items failed")
    found.result["results"] = [{"failed": False, "msg": "fine"}, {"failed": True, "msg": "no such model"}, {"failed": True, "msg": "later"}]
    callback.v2_runner_on_failed(found)
    callback.v2_playbook_on_stats(stats(failures=1))
    assert callback.lines == ["Failed: no such model"]


def test_an_ignored_failure_is_none(callback):
    callback.v2_runner_on_failed(failure("no"), ignore_errors=True)
    callback.v2_playbook_on_stats(stats(failures=1))
    assert callback.lines == ["Failed: see above"]


def with_report(found, *lines):
    found.custom.setdefault("_run", {})["serving_report"] = list(lines)
    return found


def test_a_report_stands_first_as_it_is(callback):
    callback.v2_playbook_on_stats(with_report(stats(changed=1, Chat="http://x"), "Model  smoke", "Gap    none"))
    assert callback.lines == ["Model  smoke", "Gap    none", "Chat  http://x"]


def test_a_report_of_what_would_be_refused_ends_with_the_refusal(callback):
    callback.v2_runner_on_failed(failure("make install-chat would refuse this. Too large."))
    callback.v2_playbook_on_stats(with_report(stats(failures=1), "Model  smoke"))
    assert callback.lines == ["Model  smoke", "Failed: make install-chat would refuse this. Too large."]


def test_other_plays_are_left_alone(callback):
    callback.v2_playbook_on_stats(stats())
    assert callback.lines == []


def test_long_messages_are_cut():
    assert first_lines("\n".join("abcdef"), most=2) == "a\nb"
    assert first_lines(None) == ""


def test_of_several_hosts_each_is_told_below_its_name(callback):
    found = stats(changed=1)
    found.processed = {"gpu1": 1, "gpu2": 1}
    found.custom = {host: {"serving_summary": {"Chat": f"http://{host}"}} for host in ("gpu1", "gpu2")}
    found.failures = {"gpu2": 1}
    callback.v2_runner_on_failed(failure("does not fit", host="gpu2"))
    callback.v2_playbook_on_stats(found)
    assert callback.lines == ["gpu1:", "Chat  http://gpu1", "gpu2:", "Failed: does not fit"]
