"""The live view, headless: what is on the screen, and what each key does."""

from __future__ import annotations

import asyncio

import pytest

from jitwatch.top.app import TopApp, content
from jitwatch.top.model import Answer
from jitwatch.top.view import width
from tests.unit.hostile import HOSTILE, ascii_start, harm_in
from tests.unit.top_states import figures, function, health, on_screen, pitfall, polled, screens, site

STORM = function(
    compiles=13, recompiles=12, is_in_storm=True, seconds=10.0, lost_seconds=9.0, lost_ratio=0.015,
    cache_entries=13, causes={"static_arg": 11, "dtype": 1},
)  # fmt: skip
ILL = figures(
    STORM,
    function("train.evaluate", seconds=2.0),
    health=health(("bad", "train_step is in a recompile storm: 12 recompiles in the last minute.")),
    call_sites=[site(pitfall="static_arg_churn")],
    pitfalls=[pitfall()],
)
WELL = figures(function("other.f"), run="other")
MANY = figures(*(function(f"train.f{number:03}", seconds=999.0 - number) for number in range(100)))


def test_screen_of_one_process_has_every_fact():
    """Its health is first; functions, recompiles and advice follow under their titles."""
    with polled(ILL) as client:
        found = on_screen(client)

    assert [
        "✗ train_step is in a recompile storm: 12 recompiles in the last minute.",
        "4711 · 127.0.0.1:10431 · up 10 min · step 1,200, 250 ms each",
        "14 compiles · 12 recompiles · compiling 25 % of the time · 1 storm now",
        "0 donation violations · gpu:0 34 GiB of 80 GiB · RSS 500 MiB",
        "  no compile in progress",
        f"─Functions by lost (2){'─' * 58}",
        "function          compiles  recompiles  seconds  lost  of run  cause",
        "train.train_step        13          12    10.00  9.00     2 %  static_arg +1",
        "train.evaluate           1           0     2.00     –       –",
        f"─Newest recompiles (1){'─' * 58}",
        "- train_step at train.py:88: length 11 → 12. 2 recompiles, 1.50 s lost.",
        f"─Advice (1){'─' * 69}",
        "- static_arg_churn in train_step at train.py:88: the static argument length ha…",
        "  → Pass length as an ordinary argument instead of a static one.",
    ] == [line for line in found[:-1] if line]
    assert " q quit  s sort by lost  p pause  f r c show one part" == found[-1]


def test_screen_without_jobs_says_what_to_do():
    """Where it searched, and how to start a job."""
    with polled() as client:
        found = on_screen(client)

    assert found[0].startswith("No job with jitwatch responds on this machine on ports 10431 to 10494")
    assert not any("Functions" in line for line in found)


def test_screen_shows_a_job_that_appears_later():
    """New answers are drawn."""
    with polled() as client:
        client.add("http://127.0.0.1:9", lambda: Answer(WELL))
        found = on_screen(client, "wait")

    assert "✓ Healthy: no function has recompiled." == found[0]


@pytest.mark.parametrize("size", [(80, 24), (160, 50), (40, 10), (20, 6), (7, 3), (1, 1)])
@pytest.mark.parametrize("jobs", [(ILL,), (ILL, WELL, None), (None,)], ids=["one", "several", "none"])
def test_screen_fits_every_terminal(size, jobs):
    """No line is broken, and the health is first where it fits."""
    with polled(*jobs) as client:
        found = on_screen(client, size=size)

    assert size[1] == len(found)
    assert all(width(line) <= size[0] for line in found)
    assert found[0][:1] == ("–" if jobs == (None,) else "✗") or size == (1, 1)


def test_screen_follows_the_size_of_the_terminal():
    """A wide terminal has all columns, a narrow one the most important."""
    with polled(ILL) as client:
        _, wide, narrow = screens(client, "resize:120x40", "resize:50x20")

    assert any(line.endswith("cached  cause") for line in wide)
    assert ["function", "recompiles", "lost", "cause"] == next(
        line.split() for line in narrow if line.startswith("function")
    )
    assert " q quit" == wide[39][:7] == narrow[19][:7]


def test_s_goes_through_the_orders():
    """The order is named at the bottom and in the title, and begins again after the last."""
    with polled(ILL) as client:
        found = screens(client, *"sssss")[1:]

    orders = ["seconds", "recompiles", "compiles", "name", "lost"]
    assert [f" q quit  s sort by {order}  p pause  f r c show one part" for order in orders] == [
        one[-1] for one in found
    ]
    assert "train.evaluate" == found[3][7].split()[0]


def test_p_pauses_and_goes_on():
    """Nothing is requested and nothing changes, ages included, until the same key is pressed again."""
    with polled(figures(STORM, call_sites=[site(last_time=1590.0)])) as client:
        _, paused, _, later = screens(client, "p", "wait", "wait")
        before = client.answers
        on_screen(client, "wait")
        assert before == client.answers
        on_screen(client, "p", "p", "wait")
        assert before < client.answers

    assert paused == later
    assert any(line.startswith("- 10 s ago: ") for line in paused)
    assert " q quit  s sort by lost  p resume  paused  f r c show one part" == paused[-1]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["tab"], "a"), (["down", "right"], "b"), (["tab", "tab", "tab"], "all"), (["up"], "b"),
        (["tab", "left"], "all"), (["shift+tab", "shift+tab"], "a"), (["x"], "all"),
    ],
)  # fmt: skip
def test_arrows_and_tab_choose_a_process(keys, expected):
    """They go in both directions, by way of all of them together."""
    with polled(figures(STORM, run="a"), figures(function("other.f"), run="b")) as client:
        found = on_screen(client, *keys)

    assert f"tab process: {expected}  " in found[-1]
    assert [expected] == [line[2:].split()[0] for line in found if line.startswith("▸")] or expected == "all"
    assert (expected in ("a", "all"), expected in ("b", "all")) == (
        any("train.train_step" in line for line in found), any("other.f" in line for line in found)
    )  # fmt: skip


def test_arrows_scroll_where_there_is_one_process():
    """The head of the table stays."""
    with polled(MANY) as client:
        first, _, scrolled, _, back, page, again = screens(client, "down", "down", "up", "up", "pagedown", "pageup")

    at = next(number for number, line in enumerate(first) if line.startswith("function"))
    assert ["train.f000", "train.f002"] == [one[at + 1].split()[0] for one in (first, scrolled)]
    assert first[at][:70] == scrolled[at][:70] == page[at][:70]
    assert page[at + 1].split()[0] > "train.f005"
    assert first == back == again


@pytest.mark.parametrize(
    ("key", "title"), [("f", "─Functions by lost (2)"), ("r", "─Newest recompiles (1)"), ("c", "─Advice (1)")]
)
def test_one_part_is_shown_alone(key, title):
    """The same key shows all parts again."""
    with polled(ILL) as client:
        _, alone, again = screens(client, key, key)

    assert [title] == [line.rstrip("─") for line in alone if line.startswith("─")]
    assert 3 == sum(line.startswith("─") for line in again)


def test_part_alone_has_the_whole_height():
    """More of its notes are visible than in the overview."""
    with polled(figures(STORM, call_sites=[site(f"train.f{number}") for number in range(30)])) as client:
        overview, alone = screens(client, "r")

    first, last = (
        next(number for number, line in enumerate(overview) if line.startswith(title))
        for title in ("─Newest recompiles", "─Advice")
    )
    assert (3, 17) == (last - first - 1, sum(line.startswith("- f") for line in alone))


def test_whole_texts_are_shown_in_a_part_alone():
    """What was cut in the overview is readable there."""
    with polled(ILL) as client:
        text = " ".join(line.strip() for line in on_screen(client, "c"))

    assert "the static argument length had 12 different values, and each one needed a compile." in text


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_q_and_ctrl_c_quit(key):
    """The exit code is 0."""

    async def run() -> int | None:
        with polled(ILL) as client:
            app = TopApp(client)
            async with app.run_test() as pilot:
                await pilot.press(key)
                await pilot.pause()
                assert not app.is_running
            return app.return_code

    assert 0 == asyncio.run(run())


@pytest.mark.parametrize("text", HOSTILE, ids=ascii_start)
def test_hostile_texts_are_shown_harmlessly(text):
    """Markup is a name like any other, and no control character reaches the terminal."""
    hostile = figures(
        function(text, recompiles=1, causes={text: 1}), run=text, health=health(("bad", text)),
        call_sites=[site(text, call_site=text, reason=text)], pitfalls=[pitfall(text, message=text, advice=text)],
        in_progress=[{"function": text, "phase": text, "for_s": 1.0}],
    )  # fmt: skip
    with polled(hostile, hostile) as client:
        found = on_screen(client, size=(100, 40))

    assert [] == harm_in("\n".join(found))
    assert all(width(line) <= 100 for line in found)
    assert "[red]rich[/red]" not in text or any("[red]rich[/red]" in line for line in found)


def test_content_has_the_styles_of_the_lines():
    """Colours are those of the terminal's own scheme."""
    found = content([(("a", "bad"), ("b", "")), (("c", "good"),)])

    assert "ab\nc" == found.plain
    assert [(0, 1, "bold ansi_red"), (3, 4, "ansi_green")] == [
        (one.start, one.end, one.style) for one in found.spans if one.style
    ]
