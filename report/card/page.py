"""A card becomes a page that needs no other file: what is in it comes from here and from card.html."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from manifest.counters import EXAMPLES, CountWithExamples
from manifest.records import GONE, NOT_AN_IMAGE
from report.card.facts import Card, Histogram, label
from report.card.thumbnails import Box, Look

TEMPLATE = Path(__file__).with_name("card.html")
WIDTH, HEIGHT, BELOW = 300, 120, 18  # of a histogram, and of the line below it for its scale
TICKS = 4
FEW = 8  # groups that are shown in one column

Names = Iterable[str]


def render(card: Card, looks: Sequence[Look]) -> str:
    """The page as HTML. Whatever comes from a name is escaped."""
    name, _, lead = card.title.partition(": ")
    return Template(TEMPLATE.read_text()).substitute(
        name=escape(name),
        lead=escape(lead),
        dataset=escape(card.dataset),
        state=_state(card),
        figures=_figures(card),
        about=_about(card),
        contact_sheet=_contact_sheet(looks),
        groups=_groups(card),
        looked_at=f"file sizes: all images; dimensions: a sample of {card.looked_at:,}, evenly spread",
        charts=_charts(card),
        checks=_checks(card),
        sources=_sources(card),
        footer='Every object with its size, checksum and source: <a href="manifest.csv">manifest.csv</a>.'
        ' The content of this page for programs: <a href="card.json">card.json</a>.',
    )


def amount(size: float) -> str:
    """Bytes in decimal multiples: 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"


def _state(card: Card) -> str:
    day = escape(card.finished[:10])
    miniature = '<span class="pill odd">only the small sample that comes with the tool</span>' if card.sample else ""
    return f'<span class="pill good">complete and verified on {day}</span>{miniature}'


def _figures(card: Card) -> str:
    return "".join(
        f'<div><strong>{number}</strong><span>{what}</span><small class="{cls}">{remark}</small></div>'
        for number, what, (cls, remark) in (
            (f"{card.images:,}", "images", _published(card.images, card.images_published)),
            (f"{card.groups:,}", f"{escape(card.grouped_by)}s", _published(card.groups, card.groups_published)),
            (
                f"{card.annotations:,}",
                "annotations",
                ("", "one for each image") if _is_paired(card) else ("odd", "see Checks below"),
            ),
            (amount(card.size), "total size", ("", f"{card.objects:,} objects")),
        )
    )


def _published(found: int, published: int | None) -> tuple[str, str]:
    if published is None:
        return "", "published number unknown"
    return ("", "as published") if found == published else ("odd", f"published: {published:,}")


def _is_paired(card: Card) -> bool:
    return not card.without_annotation.count and not card.without_image.count


def _about(card: Card) -> str:
    home = f'<a href="{escape(card.home)}">{escape(card.home)}</a>'
    lines = (("Home", home), ("Licence", escape(card.licence)), ("Citation", escape(card.citation)))
    return "".join(f"<dt>{key}</dt><dd>{text}</dd>" for key, text in lines)


# ── contact sheet ────────────────────────────────────────────────────────────────────────────────


def _contact_sheet(looks: Sequence[Look]) -> str:
    if not looks:
        return ""
    kinds = dict.fromkeys(box.kind for each in looks for box in each.boxes)
    keys = "".join(
        f'<span class="key{" head" * (kind == "head")}">{escape(kind or "annotated")}</span>' for kind in kinds
    )
    figures = "\n".join(map(_figure, looks))
    return (
        f'<section><header><h2>Contact sheet</h2><p>{keys}</p></header>\n<div class="sheet">{figures}</div></section>'
    )


def _figure(each: Look) -> str:
    name = each.path.rpartition("/")[2]
    picture = base64.b64encode(each.thumbnail).decode()
    return (
        f'<figure><svg viewBox="0 0 {each.width} {each.height}" role="img" aria-label="{escape(name)}">'
        f'<image href="data:image/jpeg;base64,{picture}" width="{each.width}" height="{each.height}"/>'
        f"{''.join(map(_box, each.boxes))}</svg>"
        f"<figcaption><span>{escape(each.title)}</span><span>{escape(name)}</span></figcaption></figure>"
    )


def _box(box: Box) -> str:
    width, height = max(box.right - box.left, 0), max(box.bottom - box.top, 0)
    place = f'x="{box.left:g}" y="{box.top:g}" width="{width:g}" height="{height:g}"'
    return f'<rect class="under" {place}/><rect class="{"box-head" if box.kind == "head" else "box"}" {place}/>'


# ── charts ───────────────────────────────────────────────────────────────────────────────────────


def _groups(card: Card) -> str:
    title = f"Images per {escape(card.grouped_by)}"
    if not card.images_of:  # too many: a histogram instead, among the charts
        return ""
    most, least = max(card.images_of.values()), min(card.images_of.values())
    bars = "\n".join(
        f'<li><b title="{escape(group)}">{escape(label(group))}</b>'
        f'<i style="--share:{count / most:.1%}"></i><em>{count:,}</em></li>'
        for group, count in card.images_of.items()
    )
    few = " few" if len(card.images_of) <= FEW else ""
    between = f"{least:,} to {most:,}" if least < most else f"{most:,} each"
    return (
        f'<section class="long"><header><h2>{title}</h2><p>{between}</p></header>'
        f'<ol class="bars{few}">{bars}</ol></section>'
    )


def _charts(card: Card) -> str:
    return (
        ("" if card.images_of else _histogram(f"Images per {card.grouped_by}", card.images_per_group, "{:,}".format))
        + _histogram("File size", card.image_sizes, amount)
        + _histogram("Width", card.widths, "{:,} px".format)
        + _histogram("Height", card.heights, "{:,} px".format)
    )


def _histogram(title: str, it: Histogram | None, text: Callable[[int], str]) -> str:
    if it is None:
        return ""
    high, wide = max(it.counts), WIDTH / len(it.counts)
    columns = "".join(
        f'<rect class="column" x="{index * wide:.1f}" y="{HEIGHT * (1 - count / high):.1f}" width="{wide - 1:.1f}"'
        f' height="{HEIGHT * count / high:.1f}"><title>{_step(it, index, text)}: {count:,}</title></rect>'
        for index, count in enumerate(it.counts)
    )
    return (
        f"<div><h3>{title}</h3>"
        f'<svg viewBox="0 -8 {WIDTH} {HEIGHT + BELOW + 8}" role="img" aria-label="{title}">'
        f'<line class="rule" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>{columns}{_scale(it, wide, text)}</svg>'
        f"<p><span>median {text(it.median)}</span> · <span>95 % ≤ {text(it.most)}</span>"
        f" · <span>max {text(it.largest)}</span></p></div>"
    )


def _step(it: Histogram, index: int, text: Callable[[int], str]) -> str:
    low = text(index * it.step)
    return f"from {low}" if index + 1 == len(it.counts) else f"{low} to {text((index + 1) * it.step)}"


def _scale(it: Histogram, wide: float, text: Callable[[int], str]) -> str:
    every = max(len(it.counts) // TICKS, 1)
    return "".join(
        f'<text class="axis" x="{index * wide:.1f}" y="{HEIGHT + BELOW - 3}"'
        f' text-anchor="{"middle" if index else "start"}">{text(index * it.step)}</text>'
        for index in range(0, len(it.counts), every)
    )


# ── what was looked for ──────────────────────────────────────────────────────────────────────────


def _checks(card: Card) -> str:
    twins = CountWithExamples.of(" = ".join(paths) for paths in card.duplicates)
    same = f"sets of equal images, {sum(map(len, card.duplicates)):,} images together"
    absent = {GONE: "that the source no longer has", NOT_AN_IMAGE: "that are no images there"}
    return "".join(
        (
            _check("Images without annotation", _one(card.without_annotation)),
            _check("Annotations without image", _one(card.without_image)),
            _check("Format differs from the name", card.wrong_format, "every image is what its name says"),
            _check("Unreadable images", card.unreadable, f"none of the {card.looked_at:,} that were opened"),
            _check("Identical images", {same: twins} if twins.count else {}),
            _check("Missing at the source", {
                what: card.failures[outcome] for outcome, what in absent.items() if outcome in card.failures
            }),
        )
    )  # fmt: skip


def _one(some: CountWithExamples) -> dict[str, CountWithExamples]:
    return {"": some} if some.count else {}


def _check(title: str, found: dict[str, CountWithExamples], none: str = "none") -> str:
    if not found:
        return f'<li><span class="mark">✓</span><span>{title}</span><span>{none}</span></li>'
    told = ", ".join(f"{some.count:,} {escape(what)}".rstrip() for what, some in found.items())
    names = "".join(
        f"<span>{escape(name)}</span>"
        for some in found.values()
        for name in some.examples[: EXAMPLES // len(found) or 1]
    )
    shown = sum(len(some.examples[: EXAMPLES // len(found) or 1]) for some in found.values())
    more = "<span>…</span>" if shown < sum(some.count for some in found.values()) else ""
    return (
        f'<li class="odd"><span class="mark">!</span><span>{title}</span><span>{told}</span>'
        f'<span class="names">{names}{more}</span></li>'
    )


def _sources(card: Card) -> str:
    if not card.sources:
        return "<p>Each photo was downloaded from its own address; manifest.csv lists them.</p>"
    lines = "".join(
        f'<tr><td>{escape(each["file"])}</td><td class="number">{each["size"]:,} bytes</td>'
        f"<td>sha256 {escape(each['sha256_check'])}</td><td>{escape(each['url'])}</td></tr>"
        for each in card.sources
    )
    return f"<table>{lines}</table>"
