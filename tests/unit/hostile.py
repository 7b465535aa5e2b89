"""Texts that would do harm if an output showed them as they are, and what to look for in an output."""

from __future__ import annotations

import functools
import re
import unicodedata

#: What a name, a key, a value, a message or a path may hold.
HOSTILE = (
    "\x1b[31mred\x1b[0m",
    "\x1b[2J\x1b[H",
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil.example/\x1b\\link",
    "\x9b31mred",
    "\x9d0;title\x9c",
    "\x90q\x9c",
    "new\nline",
    "carriage\rreturn",
    "tab\tbed",
    "page\x0cvertical\x0bbell\x07back\x08\x7f",
    "nul\x00",
    "next\x85line",
    "line\u2028paragraph\u2029",
    "\u202egnp.exe\u202c",
    "\u202a\u202b\u202d",
    "\u2066isolated\u2067\u2068\u2069",
    "marks\u200e\u200f\u061c",
    "zero\u200bwidth\u200c\u200d\u2060\ufeff",
    "soft\u00adhyphen",
    "tag\U000e0041\U000e007f",
    "lone\ud800surrogate\udc9b",
    "private\ue000",
    "nobody\uffff",
    "quo\"te'back`tick\\slash",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style><!--",
    "&lt;b&gt;&#60;i&#62;&amp;",
    "javascript:alert(1)",
    "[red]rich[/red] [link=http://evil.example]x[/link]",
    "**bold** [link](http://evil.example) ![x](http://evil.example/x.png) | a | b |",
    'label="other"} 1\n# HELP evil',
    '{{ template "evil" }} {{ . }} {{- end -}}',
    "{0} {x!r} %s %(x)s ${HOME} $(id) `id`",
    "<!channel> @everyone",
    "../../etc/passwd",
    "x" * 100_000,
    "e" + "\u0301" * 500,
)
#: The same kinds of harm in few texts, each short enough to be shown as a whole, where every one costs a compile.
MIXED = (
    "\x1b[31m\x9b2J\x1b]0;t\x07\x00\n\r\t\x0c\x7f",
    "a\u202eb\u2066c\u200bd\u2028e\x85f\ufeffg\ud800h\u061ci",
    "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>",
    '[red]{{ template "x" }}%s{0}`|**b**\\',
    "\x1b[2J" + "x" * 100_000,
)


def ascii_start(text: str) -> str:
    """What to call a test of this text."""
    return ascii(text[:30])


#: What no output may hold, whatever it shows; an output of several lines may have line feeds.
_STEERING = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def harm_in(text: str, allowed: str = "\n") -> list[str]:
    """Characters of an output that steer a terminal, break lines, turn letters around or cannot be seen."""
    rest = functools.reduce(lambda rest, one: rest.replace(one, ""), allowed, text)
    # None of them is printable, which takes a hundredth of the time to find out of a long text.
    if rest.isprintable():
        return []
    return [
        f"{one!r} in {text[max(0, at - 40) : at + 40]!r}"
        for at, one in enumerate(text)
        if unicodedata.category(one) in _STEERING and one not in allowed
    ]


#: The start of an element or of a comment, or an event handler within one.
_MARKUP = re.compile(r"<\s*[a-zA-Z!/?]")


def markup_in(text: str) -> list[str]:
    """Starts of elements in what should be plain text."""
    return [text[found.start() : found.start() + 40] for found in _MARKUP.finditer(text)]
