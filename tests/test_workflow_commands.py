"""The tests read a step's log and files as GitHub's runner does."""

from __future__ import annotations

import pytest

from tests.workflow_commands import Command, commands, outputs


def parsed(*lines: str) -> list[Command]:
    return list(commands("\n".join(lines)))


def test_a_command_has_properties_and_a_message_that_are_unescaped() -> None:
    line = "  ::error file=a%2Cb.json,line=3,title=T%3A 100%25::50%25 off%0Asecond%3A line"
    properties = {"file": "a,b.json", "line": "3", "title": "T: 100%"}
    assert parsed(line) == [Command("error", properties, "50% off\nsecond%3A line")]
    assert parsed("::warning::a::b") == [Command("warning", {}, "a::b")]
    assert parsed("::notice::%250A") == [Command("notice", {}, "%0A")]


def test_a_command_of_the_old_form_is_found_anywhere_in_a_line() -> None:
    assert parsed("model ##[add-mask]secret%5D") == [Command("add-mask", {}, "secret]")]
    assert parsed("x ##[error file=a;line=2]m") == [Command("error", {"file": "a", "line": "2"}, "m")]


def test_what_is_no_command_is_none() -> None:
    assert parsed("a ::error::b", "::nothing::b", "::error", "##[nothing]b", "##[error", ":: error::b") == []


def test_every_line_end_begins_a_new_line_and_hidden_characters_hide_nothing() -> None:
    assert [command.message for command in commands("a\r::error::1\r\n::error::2\n\u200b::error::3")] == ["1", "2", "3"]


def test_commands_are_stopped_until_their_own_token() -> None:
    log = ("::error::1", "::stop-commands::t0k", "::error::2", "##[error]3", "::other::", "::T0K::", "::error::4")
    assert [command.message for command in parsed(*log)] == ["1", "4"]


def test_outputs_are_read_with_their_delimiters() -> None:
    assert outputs("a=1\nb<<END\nx=y\n\nEND\nc=<<d\ne<<=\n=\n") == {"a": "1", "b": "x=y\n", "c": "<<d", "e": ""}
    assert outputs("") == {}
    for wrong in ("no separator", "a<<END\nx"):
        with pytest.raises(ValueError, match=r"delimiter|format"):
            outputs(wrong)
