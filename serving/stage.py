"""HTML of results: viewers, lists of motions, tables and errors."""
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from serving.history import Take
from serving.workshop import PAGE, Shown, sentences

ADDRESS, ARCHIVES = "made", "zip"  # URL paths of result files and archives
EMPTY = '<div class="stage"><p>{}</p></div>'
FRAME = '<iframe src="{}" title="The motion" allow="fullscreen"></iframe>'
STYLE = Path(__file__).with_name("style.css")
SCRIPTS = [Path(__file__).with_name(name) for name in ("page.js", "timeline.js")]
ON_LOAD = "lamp.results(element, trigger, watch, props)"


@dataclass(frozen=True)
class Card:
    """An entry in a list of motions. ``buttons`` are (action, label) pairs."""

    identity: str
    title: str
    about: str
    picture: str  # SVG
    buttons: tuple[tuple[str, str], ...]


def theme() -> gr.themes.Base:
    """Return a theme with system fonts and the colours of the viewer."""
    letters = ["ui-sans-serif", "system-ui", "sans-serif"]
    default = gr.themes.Default(primary_hue="blue", secondary_hue="blue", neutral_hue="slate", radius_size="lg",
                                font=letters, font_mono=["ui-monospace", "Consolas", "monospace"])
    # The default colours of these elements have too little contrast: below 4.5 for text, below 3 for checkboxes.
    return default.set(
        body_text_color_subdued="*neutral_600", color_accent="*primary_600", input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400", button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700", checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400")


def results(value: str = "", classes: Sequence[str] = ()) -> gr.HTML:
    """Create a component for HTML from this module. Its buttons trigger ``select`` with their action and id."""
    return gr.HTML(value, js_on_load=ON_LOAD, elem_classes=list(classes))


def drawn(kind: str, value: object) -> gr.HTML:
    """Create a component that is rendered by the function ``kind`` in timeline.js."""
    return gr.HTML(value, html_template=f'<div class="{kind}"></div>',
                   js_on_load=f"lamp.{kind}(element, trigger, watch, props)", elem_classes=[f"{kind}-slot"])


def stage_of(takes: Sequence[Take]) -> str:
    """Return HTML with one or more motions side by side, synchronised, and their buttons."""
    newest = takes[-1]
    said = sentences(f"“{newest.ask.title}”: {newest.about}", newest.remarks)
    archive = f'{ARCHIVES}/{"+".join(take.id for take in takes)}'
    links = f'<a href="{archive}" download>All files (.zip)</a>'
    shown = "".join(_take(take, len(takes) > 1) for take in takes)
    together = ('<div class="together"><button data-play aria-label="Play or pause">❚❚</button>'
                '<input type="range" min="0" max="1" step="any" value="0" aria-label="Time of all motions">'
                '<output></output></div>' if len(takes) > 1 else "")
    return (f'<div class="summary"><span class="said">{html.escape(said)}</span>{links}</div>'
            f'<div class="takes takes-{len(takes)}">{shown}</div>{together}')


def _take(take: Take, several: bool) -> str:
    page = f"{ADDRESS}/{take.id}/{PAGE}"
    keep = _button("keep", "Keep this one", take.id) if several else ""
    link = ("" if take.ask.from_upload else
            f'<a href="?{html.escape(take.ask.query())}" title="Makes this motion again">Permalink</a>')
    return (f'<figure class="take"><div class="stage">{FRAME.format(page)}</div><figcaption>'
            f'<span>seed {take.ask.seed} · {take.frames / take.fps:.1f} s</span>{keep}'
            f'{_button("edit", "Edit", take.id)}{link}'
            f'<a href="{page}" target="_blank">New tab</a></figcaption></figure>')


def page_of(shown: Shown) -> str:
    """Return HTML that embeds a page of existing motions."""
    page = f"{ADDRESS}/{shown.room.name}/{PAGE}"
    return (f'<div class="summary"><span class="said">{html.escape(shown.said)}</span>'
            f'<a href="{page}" target="_blank">New tab</a></div><div class="stage">{FRAME.format(page)}</div>')


def cards_of(cards: Sequence[Card], said: str = "") -> str:
    """Return HTML with a list of motions and their thumbnails."""
    items = "".join(
        f'<li><button class="picture" data-action="{card.buttons[0][0]}" data-id="{html.escape(card.identity)}" '
        f'aria-label="{card.buttons[0][1]}: {html.escape(card.title)}">{card.picture}</button>'
        f'<b>{html.escape(card.title)}</b><span>{html.escape(card.about)}</span>'
        f'<div>{"".join(_button(action, label, card.identity) for action, label in card.buttons)}</div></li>'
        for card in cards)
    return (f'<p class="said">{html.escape(said)}</p>' if said else "") + f'<ul class="cards">{items}</ul>'


def history_of(takes: Sequence[Take]) -> str:
    """Return HTML with the history of a visitor."""
    if not takes:
        return '<p class="said">Motions that you make appear here.</p>'
    buttons = (("open", "Open"), ("edit", "Edit"), ("again", "Again"))
    return cards_of([Card(take.id, take.ask.title, ("★ " if take.kept else "") + take.about, take.picture, buttons)
                     for take in takes])


def _button(action: str, label: str, identity: str) -> str:
    return f'<button data-action="{action}" data-id="{html.escape(identity)}">{label}</button>'


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Return HTML with a table of times and captions."""
    lines = "".join(f"<tr><td>{html.escape(when)}</td><td>{html.escape(text)}</td></tr>" for when, text in rows)
    return f'<table class="rows">{lines}</table>'


def fault_of(line: str) -> str:
    """Return HTML with an error message and a button to dismiss it."""
    return (f'<div class="fault" role="alert"><span>{html.escape(line)}</span>'
            '<button data-dismiss aria-label="Dismiss this error">✕</button></div>')
