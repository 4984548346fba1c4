"""Texts that have broken programs: each awkward piece alone and inside what somebody might say.

Pieces are written as escapes where an editor, a terminal or a diff would show something else than what is there.
"""

from __future__ import annotations

_FRAMES = ("{}", "fly me from {} to Rome", "{} is where I want to go next Friday", 'play "{}" and then go to {}')
_REMOTE = "http://remote.invalid"  # whoever asks this host has been made to by a text

WRITING = {
    "right to left": [
        "שלום",
        "مرحبا بك",
        "\u202eabc\u202c",
        "\u2067עברית\u2069 and (1)",
        "abc \u200fדג\u200e 12",
        "\u061c١٢٣",
        "ﷺ",
    ],
    "zero width": [
        "Bos\u200bton",
        "Bos\u200d\u200cton",
        "\ufeffBoston",
        "Bos\u00adton",
        "\u2060Rome\u2060",
        "New\u180eYork",
    ],
    "combining": [
        "e\u0301",
        "Z\u0351\u0367\u0343a\u0300\u0301\u0302\u0303l\u0334\u0335go",
        "a" + "\u0301" * 300,
        "\u0301 first",
        "각",
        "क्षि",
        "ก็",
    ],
    "same to the eye": [
        "café cafe\u0301",
        "Å Å A\u030a",
        "ﬁve ﬂights",
        "Ⅳ ½ ²",
        "ｆｕｌｌ ｗｉｄｔｈ",
        "Раris",
        "ſtraße STRASSE ẞ",
        "İstanbul ıI",
    ],
    "emoji": [
        "👨‍👩‍👧‍👦",
        "🏳️‍🌈🏴‍☠️",
        "👍🏽👍🏿",
        "🇳🇴🇮🇹🇯🇵",
        "1️⃣#️⃣",
        "😀" * 50,
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "❤️ ❤",
    ],
    "astral": ["𝒜𝓃𝓃𝒶", "𠜎𠜱𠝹", "\U0010fffd", "𐍈𐌰", "🜁🜂", "\U000f0000"],
    "no character": ["\ufffe", "\uffff", "\U0001ffff", "\ufdd0", "\ufffd"],
    "half a surrogate pair": ["\ud800", "\udfff", "a\udc80b", "\udfff\ud800"],
    "control": [
        "\0",
        "a\0b",
        "\x01\x02\x03",
        "\x1b[31mred\x1b[0m",
        "\x7f",
        "\x85",
        "\b\b\b",
        "\x1c\x1d\x1e\x1f",
        "\x1b]0;title\x07",
    ],
    "white space": [
        "\r\n",
        "a\rb",
        "a\u2028b\u2029c",
        "\u00a0Rome\u00a0",
        "a\u3000b",
        "\u2003\u2009",
        "\t\v\f",
        "\n\n\n",
        "  two  ",
    ],
    "long": ["x" * 5_000, "Llanfairpwllgwyngyll" * 40, "ab " * 1_500, "¿" * 3_000, "\u0e01" * 2_000, "=" * 4_000],
    "scripts": [
        "北京から東京へ",
        "서울특별시",
        "Ελλάδα",
        "Київ",
        "ประเทศไทย",
        "अहमदाबाद",
        "አዲስ አበባ",
        "တောင်ကြီး",
        "ᠮᠣᠩᠭᠣᠯ",
        "𓂀𓃭",
    ],
}
MARKUP = {
    "script": [
        "<script>window.hit=1</script>",
        f"<script src={_REMOTE}/x.js></script>",
        "<img src=x onerror=window.hit=1>",
        "<svg onload=window.hit=1>",
        "<body onload='window.hit=1'>",
        "<a href='javascript:window.hit=1'>x</a>",
        '"><script>window.hit=1</script><b x="',
        "</textarea></style></title></script><script>window.hit=1</script>",
        "<details open ontoggle=window.hit=1>",
        "<input autofocus onfocus=window.hit=1>",
        "&lt;script&gt;window.hit=1&lt;/script&gt; &#60;img&#62;",
        "<math><mtext><style><img src=x onerror=window.hit=1></style>",
    ],
    "frame and fetch": [
        f"<iframe src={_REMOTE}/f></iframe>",
        "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
        f"<img src={_REMOTE}/x.png>",
        f"<link rel=stylesheet href={_REMOTE}/x.css>",
        f"<object data={_REMOTE}/o></object><embed src={_REMOTE}/e>",
        f"<video src={_REMOTE}/v autoplay></video>",
        f"<meta http-equiv=refresh content='0;url={_REMOTE}'>",
        f"<base href={_REMOTE}>",
        f"<form action={_REMOTE}><button>",
    ],
    "style": [
        "<style>*{display:none!important}</style>",
        "<div style='position:fixed;inset:0;width:9000px;height:9000px;background:red'>over everything</div>",
        f"<style>@import '{_REMOTE}/x.css';body{{background:url({_REMOTE}/b.png)}}</style>",
        "<marquee style='font-size:900px'>big</marquee>",
        "</div></div></div></div>",
    ],
    "markdown": [
        f"![x]({_REMOTE}/m.png)",
        f"[link]({_REMOTE}/l) <{_REMOTE}/a>",
        "# heading\n\n---\n\n> quote\n\n* item",
        "```python\nimport os\n```",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "**bold** _italic_ ~~gone~~ `code`",
        "[x]: javascript:window.hit=1\n[x]",
        "</code></pre><img src=x onerror=window.hit=1>",
    ],
    "directive": [
        ":red[text] :blue-background[text]",
        ":material/delete: :rainbow[x]",
        "$\\frac{a}{b}$ $$x^2$$",
        "$\\href{javascript:window.hit=1}{x}$ $\\unicode{x}$",
        f"$\\includegraphics{{{_REMOTE}/t.png}}$",
        ":smile: :streamlit: -> <- --",
        ":badge[x] :small[y]",
    ],
}
SYNTAX = {
    "format": [
        "%s%s%n%x",
        "{} {0} {name!r:>{width}}",
        "{{}}",
        "${HOME} $(id) `id`",
        "%00 %0a %c0%af",
        "\\x41 \\u0041 \\N{BULLET} \\",
    ],
    "path": [
        "../../etc/passwd",
        "C:\\Windows\\System32",
        "/dev/null",
        "~root/.ssh",
        "file:///etc/passwd",
        "con aux nul",
        "\\\\host\\share",
    ],
    "sql": [
        "'; DROP TABLE answers; --",
        "' OR '1'='1",
        "1; SELECT sqlite_version()",
        "\"; ATTACH DATABASE 'x' AS y",
        "%' UNION SELECT 1--",
    ],
    "url": [
        f"{_REMOTE}/?q=1&r=%20#f",
        "javascript:window.hit=1",
        "data:text/html,<script>window.hit=1</script>",
        "mailto:a@b.c",
        "//remote.invalid",
    ],
    "formula": ["=1+1", '=HYPERLINK("' + _REMOTE + '","x")', "+cmd|' /C calc'!A0", "@SUM(1)", "-2+3", "\t=1"],
    "data": [
        '{"a": [1, NaN]}',
        "a,b;c\td",
        '"quoted""twice"',
        "null None nan NaN Infinity",
        "true",
        "1e999",
        "-0",
        "0x1F 1_000",
        "---\n- a: &x *x",
    ],
    "prompt": [
        "<|endoftext|>",
        "<s> </s> <unk>",
        "<|begin_of_text|><|eot_id|>",
        "Function: other\n",
        "origin:\ndestination:\n",
        "\n\norigin:",
        "[INST] x [/INST]",
    ],
    "punctuation": [
        "???!!!...",
        "“smart” ‘quotes’ — –",
        "((([[[{{{",
        "(-1, -2)",
        "$20/€5/£3",
        "a.b.c.d",
        "''''''",
        "\\\\\\\\",
        "…",
        "&amp;&&",
        " .",
        "do n't , . !",
    ],
}
CURATED_KINDS = WRITING | MARKUP | SYNTAX
# alone only: they are about their length, or about there being nothing else
_ALONE = [
    "",
    " ",
    "x",
    "a" * 200_000,
    "fly to Rome " * 16_666,
    " " * 200_000,
    "x" * 200_001,
    "😀" * 200_000,
    "\u200b" * 100,
    "\n" * 1_000,
]


def curated() -> list[str]:
    """Return every text, distinct, in an order that does not change."""
    pieces = [piece for kind in CURATED_KINDS.values() for piece in kind]
    return list(dict.fromkeys([frame.replace("{}", piece) for piece in pieces for frame in _FRAMES] + _ALONE))


def markup() -> list[str]:
    """Return what a browser might run, fetch or be laid out by."""
    return [piece for kind in MARKUP.values() for piece in kind] + SYNTAX["url"]
