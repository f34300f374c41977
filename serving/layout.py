"""The page of the app: four tabs, each with a viewer. Needs Gradio."""
import functools
import html
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from serving.inputs import Kept
from serving.workshop import ARCHIVE, FORMATS, PAGE, Result, Workshop
from utils.errors import InputError

ADDRESS = "made"  # URL path of the rooms
UPLOADED, MADE_HERE = "a file of yours", "a motion made here"
EXAMPLES = (
    "a person walks in a circle to the left", "someone waves with the right hand",
    "a man jogs forward in a straight line", "a person kicks with the left leg",
    "an actor bows deeply to the audience")
EMPTY = '<div class="stage"><p>{}</p></div>'
INTRO = "# LaMP\nWords to motion, and motion to words."

# On a small screen the viewer is below the form.
SHOW = """() => [...document.querySelectorAll(".stage")].find((stage) => stage.offsetParent)?.scrollIntoView(
  { block: "nearest", behavior: "smooth" })"""
STYLE = Path(__file__).with_name("style.css")


def theme() -> gr.themes.Base:
    """Colours of the viewer and system fonts: nothing is downloaded."""
    letters = ["ui-sans-serif", "system-ui", "sans-serif"]
    return gr.themes.Default(primary_hue="blue", secondary_hue="blue", neutral_hue="slate", radius_size="lg",
                             font=letters, font_mono=["ui-monospace", "Consolas", "monospace"])


def reports_errors(work: Callable[..., Any]) -> Callable[..., Any]:
    """Show ``InputError`` in the page as one line; log unexpected errors in the terminal."""

    @functools.wraps(work)
    def wrapped(*given: Any) -> Any:
        try:
            return work(*given)
        except InputError as error:
            line = " ".join(str(error).split())
        except Exception:
            logging.getLogger(__name__).exception("a request failed")
            line = "this did not work; the terminal of the app has the details"
        raise gr.Error(html.escape(line, quote=False), duration=None, print_exception=False)

    return wrapped


def viewer(result: Result) -> str:
    """The sentence and links of a result, and its page in a frame."""
    room = f"{ADDRESS}/{result.room.name}"
    links = [f'<a href="{room}/{PAGE}" target="_blank">Open in a new tab</a>']
    if result.has_archive:
        links.append(f'<a href="{room}/{ARCHIVE}" download>All files (.zip)</a>')
    return (f'<div class="summary"><span>{html.escape(result.said)}</span>{"".join(links)}</div>'
            f'<div class="stage"><iframe src="{room}/{PAGE}" title="The motion" allow="fullscreen"></iframe></div>')


def table(rows: Sequence[tuple[str, str]]) -> str:
    """A table of times and captions."""
    lines = "".join(f"<tr><td>{html.escape(when)}</td><td>{html.escape(text)}</td></tr>" for when, text in rows)
    return f'<table class="rows">{lines}</table>'


def picked(origin: str, upload: str | None, chosen: str | None) -> tuple[str | None, str | None]:
    """The upload and the choice, of which only that of ``origin`` counts."""
    return (upload, None) if origin == UPLOADED else (None, chosen)


class Layout:
    """Builds the page; the button of every tab calls one method of the workshop."""

    def __init__(self, workshop: Workshop, seed: int) -> None:
        self.workshop, self.limits, self.seed = workshop, workshop.limits, min(seed, workshop.limits.seed)

    def build(self) -> gr.Blocks:
        """The page."""
        models = self.workshop.models
        with gr.Blocks(title="LaMP", analytics_enabled=False, fill_width=True) as page:
            gr.Markdown(INTRO)
            self.kept = gr.State(())
            self.choices: list[gr.Dropdown] = []
            self.origins: list[gr.Radio] = []
            self.uploads: list[gr.File] = []
            with gr.Tab("Generate"):
                generate = self._generate()
            with gr.Tab("Edit"):
                edit = self._edit()
            with gr.Tab("Caption"):
                if models.m2t is None:
                    gr.Markdown("There is no captioning model. Name one with `--m2t_name`.")
                else:
                    self._caption()
            with gr.Tab("Search"):
                if models.lamp is None:
                    gr.Markdown("There is no model for search. Name a LaMP model with `--lamp_name`.")
                else:
                    self._search()
            # All drop-down lists exist by now, so that results of one tab can be offered in the others.
            for begin in (generate, edit):
                begin()
        return page

    def _generate(self) -> Callable[[], None]:
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                prompt = self._prompt("What does the person do?", EXAMPLES[0])
                button = gr.Button("Generate", variant="primary")
                gr.Examples([[example] for example in EXAMPLES], [prompt], label="For example")
                with gr.Accordion("Settings", open=False):
                    auto = gr.Checkbox(True, label="Let the model choose the length")
                    seconds = gr.Number(6, label=f"Seconds, at most {self.limits.seconds:g}", visible=False)
                    auto.change(lambda chosen: gr.update(visible=not chosen), auto, seconds, queue=False,
                                api_visibility="private")
                    draws = self._draws()
            stage = self._stage("The motion will play here.")

        def work(kept: tuple[Kept, ...], text: str, by_model: bool, length: float, *how: Any) -> Result:
            return self.workshop.generate(text, None if by_model else length, *how, kept)

        return functools.partial(self._makes, [button.click, prompt.submit], work,
                                 [self.kept, prompt, auto, seconds, *draws], stage)

    def _edit(self) -> Callable[[], None]:
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                source = self._source("A motion to edit")
                sections = gr.Textbox("0.3,0.6", label="Parts to regenerate", max_lines=1, max_length=200,
                                      info="Shares of the motion such as 0.3,0.6, or tokens of 4 frames such as 20,40")
                prompt = self._prompt("What happens in these parts?", "a person kicks with the left leg")
                button = gr.Button("Edit", variant="primary")
                with gr.Accordion("Settings", open=False):
                    draws = self._draws()
            stage = self._stage("The edited motion and the original will play here.")

        def work(kept: tuple[Kept, ...], origin: str, upload: str | None, chosen: str | None, *what: Any) -> Result:
            return self.workshop.edit(*picked(origin, upload, chosen), kept, *what)

        return functools.partial(self._makes, [button.click, prompt.submit], work,
                                 [self.kept, *source, sections, prompt, *draws], stage)

    def _caption(self) -> None:
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                source = self._source("A motion to caption")
                count = gr.Number(3, label=f"Captions, at most {self.limits.captions}")
                drawn = gr.Checkbox(False, label="Sample captions instead of taking the most likely words")
                seed = gr.Number(self.seed, label="Seed")
                button = gr.Button("Caption", variant="primary")
                captions = gr.HTML()
            stage = self._stage("The motion will play here, with its caption.")

        @reports_errors
        def work(kept: tuple[Kept, ...], origin: str, upload: str | None, chosen: str | None,
                 *how: Any) -> tuple[Any, ...]:
            result = self.workshop.caption(*picked(origin, upload, chosen), kept, *how)
            return viewer(result), table(result.rows)

        self._runs([button.click], work, [self.kept, *source, count, drawn, seed], [stage, captions])

    def _search(self) -> None:
        places = [*(["the gallery"] if self.workshop.models.gallery else []), "what was made here"]
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                text = self._prompt("What do you look for?", "someone waves")
                source = self._source("Or a motion, without words")
                place = gr.Radio(places, value=places[0], label="Among")
                top_k = gr.Number(6, label=f"How many, at most {self.limits.found}")
                button = gr.Button("Search", variant="primary")
            stage = self._stage("Results will play here.")

        @reports_errors
        def work(kept: tuple[Kept, ...], words: str, origin: str, upload: str | None, chosen: str | None, among: str,
                 count: float) -> str:
            source = picked(origin, upload, chosen)
            return viewer(self.workshop.search(words, *source, kept, among == places[-1], count))

        self._runs([button.click, text.submit], work, [self.kept, text, *source, place, top_k], [stage])

    def _makes(self, events: Sequence[Callable[..., Any]], work: Callable[..., Result], inputs: Sequence[Any],
               stage: gr.HTML) -> None:
        """Run ``work`` on ``events``. The first input is the motions made so far, to which new ones are added."""

        @reports_errors
        def run(kept: tuple[Kept, ...], *given: Any) -> tuple[Any, ...]:
            given, uploads = given[:-len(self.uploads)], given[-len(self.uploads):]
            result = work(kept, *given)
            kept = (*kept, *result.kept)
            labels = [one.label for one in kept]
            return (viewer(result), kept, *(gr.update(choices=labels, value=labels[-1]) for _ in self.choices),
                    *(gr.update() if upload else gr.update(value=MADE_HERE) for upload in uploads))

        self._runs(events, run, [*inputs, *self.uploads], [stage, self.kept, *self.choices, *self.origins])

    def _runs(self, events: Sequence[Callable[..., Any]], work: Callable[..., Any], inputs: Sequence[Any],
              outputs: Sequence[Any]) -> None:
        """Run ``work`` on ``events``, one request at a time: there is one copy of the models."""
        done = gr.on(list(events), work, list(inputs), list(outputs), concurrency_limit=1, concurrency_id="models",
                     api_visibility="private", show_progress_on=outputs[0])
        done.success(None, js=SHOW, api_visibility="private")

    def _prompt(self, label: str, example: str) -> gr.Textbox:
        # With one line, Enter submits and Shift+Enter makes a line. Too long a text is reported, not cut.
        return gr.Textbox(label=label, placeholder=example, lines=1, max_lines=4)

    def _draws(self) -> list[Any]:
        """Inputs for seed, guidance, samples and formats."""
        # Numbers without limits in the browser, which would clamp them silently.
        count = gr.Number(1, label=f"Samples, at most {self.limits.samples}")
        guidance = gr.Number(self.workshop.sampling.cond_scale, step=0.5,
                             label=f"Guidance by the text, at most {self.limits.guidance:g}")
        seed = gr.Number(self.seed, label="Seed")
        other = gr.Button("Another seed", size="sm")
        other.click(lambda: random.randrange(1_000_000), None, seed, queue=False, api_visibility="private")
        formats = gr.CheckboxGroup([(f".{name}", name) for name in FORMATS], value=["bvh"],
                                   label="Files to download, besides .npy")
        return [seed, guidance, count, formats]

    def _source(self, label: str) -> list[Any]:
        """Inputs for an upload and for a motion made here; the visitor says which counts."""
        origin = gr.Radio([UPLOADED, MADE_HERE], value=UPLOADED, label=label)
        # Any file is taken, so that a wrong one is reported and never replaced by another motion.
        upload = gr.File(label=".npy or .bvh", height=160)
        chosen = gr.Dropdown([], label=MADE_HERE.capitalize(), value=None, visible=False)
        self.choices.append(chosen)
        origin.change(lambda value: (gr.update(visible=value == UPLOADED), gr.update(visible=value == MADE_HERE)),
                      origin, [upload, chosen], queue=False, api_visibility="private")
        self.origins.append(origin)
        self.uploads.append(upload)
        return [origin, upload, chosen]

    def _stage(self, empty: str) -> gr.HTML:
        with gr.Column(scale=5, min_width=340):
            return gr.HTML(EMPTY.format(empty))
