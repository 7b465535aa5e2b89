"""The live view, headless: what is on the screen, and what each key does."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from jitwatch.render.layout import width
from jitwatch.top.app import TopApp, content
from tests.unit.hostile import HOSTILE, harm_in
from tests.unit.top_states import Shown, cleaned, function, health, on_screen, pitfall, screens, site

STORM = function(
    compiles=13, recompiles=12, is_in_storm=True, seconds=10.0, lost_seconds=9.0, lost_ratio=0.015,
    cache_entries=13, causes={"static_arg": 11, "dtype": 1}, level="bad",
)  # fmt: skip
ILL = cleaned(
    STORM,
    function("train.evaluate", seconds=2.0),
    health=health(("bad", "train_step is in a recompile storm: 12 recompiles in the last minute.")),
    call_sites=[site(pitfall="static_arg_churn")],
    pitfalls=[pitfall()],
)
WELL = cleaned(function("other.f"), run="other")
MANY = cleaned(*(function(f"train.f{number:03}", seconds=999.0 - number) for number in range(100)))


def test_screen_of_one_process_has_every_fact():
    """Its health is first; functions, recompiles and advice follow under their titles."""
    found = on_screen(Shown(ILL))

    assert [
        "✗ train_step is in a recompile storm: 12 recompiles in the last minute.",
        "4711 · 127.0.0.1:10431 · up 10 min · step 1,200, 250 ms each",
        "14 compiles · 12 recompiles · compiling 25 % of the time · 1 storm now",
        "0 donation violations · gpu:0 34 GiB of 80 GiB · RSS 500 MiB",
        "  no compile in progress",
        f"─Functions by lost (2){'─' * 58}",
        "function          compiles  recompiles  seconds  lost  of run  cause",
        "train.train_step        13          12    10.00  9.00     2 %  static_arg +1",
        "train.evaluate           1           0     2.00     –       –  –",
        f"─Newest recompiles (1){'─' * 58}",
        "- train_step at train.py:88: length 11 → 12. 2 recompiles, 1.50 s lost.",
        f"─Advice (1){'─' * 69}",
        "- static_arg_churn in train_step at train.py:88: the static argument length ha…",
        "  → Pass length as an ordinary argument instead of a static one.",
    ] == [line for line in found[:-1] if line]
    assert " q quit  s sort by lost  p pause  f r c show one part" == found[-1]


def test_screen_without_jobs_says_what_to_do():
    """What the client says of its search."""
    found = on_screen(Shown())

    assert found[0].startswith("No job with jitwatch responds on this machine (127.0.0.1, ports 10431 to 10494)")
    assert not any("Functions" in line for line in found)


def test_screen_shows_what_is_new():
    """A job that answers later, and its keys work then."""
    client = Shown(None)
    before, after, scrolled = screens(client, lambda: client.news(MANY), "down")

    assert ("– nothing listens there.", "✓ Healthy: no function has recompiled.") == (before[0], after[0])
    assert any(line.startswith("train.f000 ") for line in after)
    assert not any(line.startswith("train.f000 ") for line in scrolled)


def test_ages_on_the_screen_grow():
    """Once a second, without a new answer."""
    client = Shown(cleaned(STORM, call_sites=[site(last_time=1590.0)]))
    found = screens(client, lambda: setattr(client, "now", 3.0))

    assert [True, True] == [
        any(f"- {age} s ago: " in line for line in one) for age, one in zip((10, 13), found, strict=True)
    ]


@pytest.mark.parametrize("jobs", [(ILL,), (ILL, WELL, None), (None,)], ids=["one", "several", "none"])
def test_screen_fits_every_terminal(jobs):
    """No line is broken, and the health is first where it fits; a wide terminal has more columns."""
    sizes = [(80, 24), (160, 50), (50, 20), (40, 10), (20, 6), (7, 3), (1, 1)]
    found = screens(Shown(*jobs), *(f"resize:{columns}x{rows}" for columns, rows in sizes))[1:]

    for (columns, rows), lines in zip(sizes, found, strict=True):
        assert rows == len(lines)
        assert all(width(line) <= columns for line in lines)
        assert lines[0][:1] == ("–" if jobs == (None,) else "✗") or columns == 1
    if jobs == (ILL,):
        assert any(line.endswith("cached  cause") for line in found[1])
        assert ["function", "recompiles", "lost", "cause"] == next(
            line.split() for line in found[2] if line.startswith("function")
        )
        assert " q quit" == found[1][49][:7] == found[2][19][:7]


def test_s_goes_through_the_orders():
    """The order is named at the bottom and in the title, and begins again after the last."""
    found = screens(Shown(ILL), *"sssss")[1:]

    orders = ["seconds", "recompiles", "compiles", "name", "lost"]
    assert [f" q quit  s sort by {order}  p pause  f r c show one part" for order in orders] == [
        one[-1] for one in found
    ]
    assert "train.evaluate" == found[3][7].split()[0]


def test_p_pauses_and_goes_on():
    """Nothing is requested and nothing changes, ages included, until the same key is pressed again."""
    client = Shown(cleaned(STORM, call_sites=[site(last_time=1590.0)]))

    def later() -> None:
        client.now += 5.0
        client.news(WELL)

    first, paused, then, on = screens(client, "p", later, "p")

    assert paused == then
    assert first[:-1] == paused[:-1]
    assert any(line.startswith("- 10 s ago: ") for line in paused)
    assert " q quit  s sort by lost  p resume  paused  f r c show one part" == paused[-1]
    assert (" q quit  s sort by lost  p pause  f r c show one part", False) == (on[-1], client.is_paused)


def test_p_goes_on_with_what_is_new():
    """What was answered in between is shown then."""
    client = Shown(ILL)
    _, paused, then, _, on = screens(client, "p", lambda: client.news(WELL), "p", lambda: None)

    assert [True, True, False] == [any("train_step" in line for line in one) for one in (paused, then, on)]


def test_arrows_and_tab_choose_a_process():
    """They go in both directions, by way of all of them together."""
    steps = {"tab": "a", "down": "b", "right": "all", "left": "b", "up": "a", "x": "a", "shift+tab": "all"}
    found = screens(Shown(cleaned(STORM, run="a"), cleaned(function("other.f"), run="b")), *steps)

    for chosen, lines in zip(("all", *steps.values()), found, strict=True):
        assert f"tab process: {chosen}  " in lines[-1]
        assert [chosen] == ([line[2:].split()[0] for line in lines if line.startswith("▸")] or ["all"])
        assert (chosen in ("a", "all"), chosen in ("b", "all")) == (
            any("train.train_step" in line for line in lines), any("other.f" in line for line in lines)
        )  # fmt: skip


def test_arrows_scroll_where_there_is_one_process():
    """The head of the table stays; page keys scroll by more."""
    first, _, scrolled, _, back, page, again = screens(Shown(MANY), "down", "down", "up", "up", "pagedown", "pageup")

    at = next(number for number, line in enumerate(first) if line.startswith("function"))
    assert ["train.f000", "train.f002"] == [one[at + 1].split()[0] for one in (first, scrolled)]
    assert first[at][:60] == scrolled[at][:60] == page[at][:60]
    # A page is what was visible: none is passed over.
    assert f"train.f{len(first) - at - 2:03}" == page[at + 1].split()[0]
    assert first == back == again


def test_tab_goes_to_the_next_part_where_there_is_one_process():
    """The arrows scroll that part."""
    sites = [site(f"train.f{number}", lost_seconds=99.0 - number) for number in range(30)]
    found = screens(Shown(cleaned(STORM, call_sites=sites)), "tab", "down", "shift+tab", "down")

    assert ["f0", "f1", "f1"] == [
        next(line.split()[1] for line in found[at] if line.startswith("- f")) for at in (1, 2, 4)
    ]


def test_one_part_is_shown_alone():
    """With the whole height, and texts that were cut; the same key shows all parts again."""
    first, f, _, r, _, c, again = screens(Shown(ILL), *"ffrrcc")

    for lines, title in ((f, "─Functions by lost (2)"), (r, "─Newest recompiles (1)"), (c, "─Advice (1)")):
        assert [title] == [line.rstrip("─") for line in lines if line.startswith("─")]
    whole = "the static argument length had 12 different values, and each one needed a compile."
    assert [False, True] == [whole in " ".join(line.strip() for line in lines) for lines in (first, c)]
    assert first == again


def test_part_alone_shows_more_and_scrolls():
    """More of its notes are visible than in the overview; the arrows scroll it."""
    client = Shown(cleaned(STORM, call_sites=[site(f"train.f{number}") for number in range(30)]))
    overview, alone, scrolled = screens(client, "r", "down")

    first, last = (
        next(number for number, line in enumerate(overview) if line.startswith(title))
        for title in ("─Newest recompiles", "─Advice")
    )
    assert (3, 17, 17) == (
        last - first - 1,
        *(sum(line.startswith("- f") for line in one) for one in (alone, scrolled)),
    )
    assert alone != scrolled


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_q_and_ctrl_c_quit(key):
    """The exit code is 0."""

    async def run() -> int | None:
        app = TopApp(Shown(ILL))
        async with app.run_test() as pilot:
            await pilot.press(key)
            await pilot.pause()
            assert not app.is_running
        return app.return_code

    assert 0 == asyncio.run(run())


def test_hostile_texts_are_shown_harmlessly():
    """Markup is a name like any other, and no control character reaches the terminal."""
    client = Shown(WELL, WELL)

    def show(*texts: str) -> None:
        client.news(
            cleaned(
                *(function(text, recompiles=1, causes={text: 1}) for text in texts), run=texts[0],
                health=health(*(("bad", text) for text in texts)),
                call_sites=[site(text, call_site=text, reason=text) for text in texts],
                in_progress=[{"function": text, "phase": text, "for_s": 1.0} for text in texts],
                pitfalls=[pitfall(text, message=text, advice=text) for text in texts],
            )
        )  # fmt: skip

    groups = [HOSTILE[at : at + 4] for at in range(0, len(HOSTILE), 4)]
    found = screens(client, *(partial(show, *group) for group in groups), size=(100, 40))[1:]

    assert [] == harm_in("\n".join(line for lines in found for line in lines))
    assert all(width(line) <= 100 for lines in found for line in lines)
    assert any("[red]rich[/red]" in line for lines in found for line in lines)


def test_content_has_the_styles_of_the_lines():
    """Colours are those of the terminal's own scheme."""
    found = content([(("a", "bad"), ("b", ""), ("c", "dim")), (("d", "good"),)])

    assert "abc\nd" == found.plain
    assert [(0, 1, "bold ansi_red"), (2, 3, "dim"), (4, 5, "ansi_green")] == [
        (one.start, one.end, one.style) for one in found.spans if one.style
    ]
