"""Base class of the page: running jobs, reporting errors, and components shared by the tabs."""
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from serving.asks import FORMATS, LIMITS
from serving.history import History, Take
from serving.jobs import Cancelled, Jobs, Visitor
from serving.stage import EMPTY, fault_of, history_of, results
from serving.visitors import Guests
from serving.workshop import SourceMotion, Workshop
from utils import InputError

UPLOADED, MADE_HERE = "your own file", "a motion generated here"
FOUND = "found:"  # prefix of gallery motion names
STARTED, ENDED = "() => lamp.count(1)", "() => lamp.count(-1)"
# On small screens the viewer is below the form, so scroll to it.
SHOW = """() => [...document.querySelectorAll(".stage")].find((stage) => stage.offsetParent)?.scrollIntoView(
  { block: "nearest", behavior: "smooth" })"""
PROGRESS = gr.Progress()
Update = dict[Any, Any]
Work = Callable[..., Update]


def line_of(error: Exception) -> str:
    """Return the error message to show to the user. Unexpected errors are logged to the terminal."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    logging.getLogger(__name__).error("a request failed", exc_info=error)
    return "an unexpected error occurred; see the terminal of the app"


class Desk:
    """Base class that connects Gradio components to the workshop.

    A ``Work`` callback receives the history owner and the input values, and returns updates for the outputs.
    """

    def __init__(self, workshop: Workshop, history: History, jobs: Jobs, guests: Guests, seed: int) -> None:
        self.workshop, self.history, self.jobs, self.guests = workshop, history, jobs, guests
        self.seed = min(seed, LIMITS.seed)
        self.choices: list[gr.Dropdown] = []
        self.origins: list[gr.Radio] = []
        self.past = results(classes=["history"])  # rendered by its tab
        self.past.unrender()
        self.example: Take | None = None

    def run(self, visitor: Visitor, work: Callable[[], Any], progress: Any = None) -> Any:
        """Run a job, report its progress, and return its result."""

        def report(what: str, done: int, total: int) -> None:
            if progress is not None:
                progress((done, total), desc=what, unit="steps")

        return self.jobs.run(visitor, work, report)

    def on(self, events: Sequence[Callable[..., Any]], work: Work, inputs: Sequence[Any], outputs: Sequence[Any],
           stage: Any, fault: Any, cancel: gr.Button | None = None) -> Any:
        """Register ``work`` to run as a job when one of ``events`` fires."""

        def handle(request: gr.Request, progress: gr.Progress = PROGRESS, *given: Any) -> Update:
            found = self._handled(request, lambda: work(self.guests.owner(request), *given), fault, progress)
            waits = self.jobs.count(str(request.session_hash))
            return found | ({} if cancel is None else {cancel: gr.update(visible=waits > 0)})

        if cancel is not None:
            gr.on(list(events), lambda: gr.update(visible=True), None, cancel, queue=False, api_visibility="private")
        return self._listen(events, handle, inputs, [*outputs, fault, *([cancel] if cancel else [])], stage)

    def on_button(self, part: gr.HTML, works: dict[str, Work], inputs: Sequence[Any], outputs: Sequence[Any],
                  stage: Any, fault: Any) -> Any:
        """Register jobs that run when a button in ``part`` is pressed.

        The button's action selects one of ``works``, which receives the button's id after the owner.
        """

        def handle(request: gr.Request, event: gr.EventData, progress: gr.Progress = PROGRESS, *given: Any) -> Update:
            action, identity = str(event._data.get("action")), str(event._data.get("id"))
            if action not in works:
                return {fault: gr.skip()}
            return self._handled(request, lambda: works[action](self.guests.owner(request), identity, *given), fault,
                                 progress)

        return self._listen([part.select], handle, inputs, [*outputs, fault], stage)

    def _handled(self, request: gr.Request, work: Callable[[], Update], fault: Any, progress: Any) -> Update:
        try:
            return self.run(self.guests.visitor(request), work, progress)
        except Cancelled:
            return {fault: gr.skip()}
        except Exception as error:
            return {fault: fault_of(line_of(error))}

    def _listen(self, events: Sequence[Callable[..., Any]], handle: Callable[..., Any], inputs: Sequence[Any],
                outputs: Sequence[Any], stage: Any) -> Any:
        gr.on(list(events), None, js=STARTED, api_visibility="private")
        done = gr.on(list(events), handle, list(inputs), list(dict.fromkeys(outputs)), show_progress_on=stage,
                     trigger_mode="multiple", concurrency_limit=None, api_visibility="private")
        done.then(None, js=ENDED, api_visibility="private")
        done.success(None, js=SHOW, api_visibility="private")
        return done

    def take(self, owner: str, identity: str | None) -> Take:
        """Return a motion from the history, or the example."""
        if self.example is not None and identity == self.example.id:
            return self.example
        return self.history.find(owner, identity)

    def made(self, owner: str, takes: Sequence[Take]) -> Update:
        """Add motions to the history. Returns the updates of ``offers`` for the history and all motion lists."""
        self.history.add(owner, takes)
        return self.offers(owner, takes[-1].id)

    def offers(self, owner: str, chosen: str | None = None) -> Update:
        """Return updates for the history and for the motion lists of all tabs."""
        takes = self.history.of(owner)
        ids = [take.id for take in takes]
        labels, value = [(take.label, take.id) for take in takes], chosen if chosen in ids else next(iter(ids), None)
        return {self.past: history_of(takes), **{one: gr.update(choices=labels, value=value) for one in self.choices}}

    @property
    def offered(self) -> list[Any]:
        """Components updated by ``offers``."""
        return [self.past, *self.choices]

    def source(self, owner: str, origin: str, upload: str | None, chosen: str | None) -> SourceMotion:
        """Load the selected motion: an upload or, depending on ``origin``, a generated or gallery motion."""
        if origin == UPLOADED:
            return self.workshop.source(upload, None)
        if chosen and chosen.startswith(FOUND):
            return self.workshop.open_file(chosen.removeprefix(FOUND))[0]
        return self.workshop.source(None, self.take(owner, chosen))

    def source_inputs(self, label: str) -> list[Any]:
        """Create the inputs that select a motion: an upload, or a previously generated one."""
        origin = gr.Radio([UPLOADED, MADE_HERE], value=UPLOADED, label=label)
        # Accepts any file, so that invalid files are reported instead of ignored.
        upload = gr.File(label=".npy or .bvh", height=160)
        chosen = gr.Dropdown([], label=MADE_HERE.capitalize(), value=None, visible=False)
        self.choices.append(chosen)
        self.origins.append(origin)
        origin.change(lambda value: (gr.update(visible=value == UPLOADED), gr.update(visible=value == MADE_HERE)),
                      origin, [upload, chosen], queue=False, api_visibility="private")
        return [origin, upload, chosen]

    def prompt(self, label: str, example: str) -> gr.Textbox:
        """Create a text box for a prompt."""
        # With lines=1, Enter submits and Shift+Enter adds a line. No max_length, so that long texts are reported.
        return gr.Textbox(label=label, placeholder=example, lines=1, max_lines=4)

    def draws(self) -> list[Any]:
        """Create the inputs for seed, guidance, number of samples and file formats."""
        # No minimum and maximum, because the browser would clamp numbers silently.
        count = gr.Number(1, label=f"Samples, at most {LIMITS.samples}")
        guidance = gr.Number(self.workshop.sampling.cond_scale, step=0.5,
                             label=f"Text guidance, at most {LIMITS.guidance:g}")
        seed = gr.Number(self.seed, label="Seed")
        formats = gr.CheckboxGroup([(f".{name}", name) for name in FORMATS], value=["bvh"],
                                   label="Files to download, besides .npy")
        return [seed, guidance, count, formats]

    def leave(self, request: gr.Request) -> None:
        """Cancel the jobs of a browser tab."""
        self.jobs.cancel(str(request.session_hash))

    def cancel(self) -> gr.Button:
        """Create a button that cancels the jobs of this browser tab. It is hidden while there are none."""
        button = gr.Button("Cancel", visible=False)
        button.click(self.leave, None, None, queue=False, api_visibility="private")
        return button

    def stage(self, empty: str) -> tuple[gr.HTML, gr.HTML]:
        """Create the area for errors and results. ``empty`` is shown until there are results."""
        with gr.Column(scale=5, min_width=340):
            return results(classes=["faults"]), results(EMPTY.format(empty))


def new_seed() -> int:
    """Return a random seed of at most six digits."""
    return random.randrange(1_000_000)
