"""Markdown of this project -> HTML for the page: nothing active, no link that leads out of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

# How a verdict begins -> its class; the longer beginning first.
_VERDICTS = (
    ("reproduced in part", "part"),
    ("reproduced with", "part"),
    ("reproduced", "good"),
    ("not reproduced", "bad"),
    ("only under", "bad"),
)

_markdown = MarkdownIt("commonmark", {"html": False}).enable("table")


@dataclass(frozen=True)
class Section:
    """A part of a document.

    Attributes:
        title: of its second-level heading; that of the document for what stands before the first.
        html: what is below it.
    """

    title: str
    html: Markup


def sections(text: str, level: int) -> list[Section]:
    """A document, cut at its second-level headings.

    Args:
        text: Markdown.
        level: what a third-level heading becomes, 3 for ``<h3>``.
    """
    found: list[tuple[str, list[Token]]] = [("", [])]
    tokens = iter(_markdown.parse(text))
    for token in tokens:
        if token.type == "heading_open" and token.tag in ("h1", "h2"):
            title = _plain(next(tokens))
            next(tokens)  # its end
            if token.tag == "h1":
                found[0] = (title, found[0][1])
            else:
                found.append((title, []))
        else:
            found[-1][1].append(token)
    return [
        Section(title, _render(_kept(own), level, title)) for title, own in found if title or own
    ]


def paragraph(text: str) -> Markup:
    """A single paragraph of Markdown, without its ``<p>``."""
    tokens = _inert(_markdown.parseInline(text)[0].children or [])
    return Markup(_markdown.renderer.render(tokens, _markdown.options, {}))


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or [])


def _inert(children: Sequence[Token]) -> list[Token]:
    """Without links and images, verdicts marked."""
    kept = [one for one in children if one.type not in ("link_open", "link_close", "image")]
    for opening, text in pairwise(kept):
        if opening.type == "strong_open":
            verdict = text.content.lower()
            classes = [name for start, name in _VERDICTS if verdict.startswith(start)]
            if classes:
                opening.attrSet("class", f"verdict {classes[0]}")
    return kept


def _kept(tokens: Sequence[Token]) -> Iterator[Token]:
    """Without paragraphs that were a picture."""
    skip = 0
    for number, token in enumerate(tokens):
        if skip:
            skip -= 1
            continue
        if token.type == "paragraph_open":
            children = _inert(tokens[number + 1].children or [])
            if not any(child.content.strip() or child.type != "text" for child in children):
                skip = 2
                continue
        yield token


def _render(tokens: Iterator[Token], level: int, title: str) -> Markup:
    kept = []
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + level - 3, 6)}"
        if token.children is not None:
            token.children = _inert(token.children)
        if "style" in token.attrs:
            # How Markdown aligns a column; the page's policy knows no styles but its own.
            token.attrs = {"class": "number"} if "right" in str(token.attrs["style"]) else {}
        name = escape(f"Table: {title}")
        if token.type == "table_open":
            kept.append(_raw(f'<div class="scroll" role="group" tabindex="0" aria-label="{name}">'))
        kept.append(token)
        if token.type == "table_close":
            kept.append(_raw("</div>"))
    return Markup(_markdown.renderer.render(kept, _markdown.options, {}))


def _raw(html: str) -> Token:
    """Markup of our own between the document's."""
    return Token("html_block", "", 0, content=html)
