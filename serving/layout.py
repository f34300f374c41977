"""Layout and event handlers of the web page. Requires Gradio."""
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from serving.api import add_api
from serving.asks import LIMITS, Ask
from serving.desk import FOUND, MADE_HERE, PROGRESS, Desk, Update, new_seed
from serving.history import Take, contact_bar
from serving.stage import EMPTY, Card, cards_of, drawn, history_of, page_of, results, stage_of, table
from utils import InputError

EXAMPLES = (
    "someone waves with the right hand", "a person walks forward and turns left",
    "a man jogs forward in a straight line", "a person kicks with the left leg",
    "an actor bows deeply to the audience")
INTRO = "# LaMP\nWords to motion, and motion to words."
SIDE_BY_SIDE = 4
TIMELINE: dict[str, Any] = {
    "blocks": [{"text": "a person walks forward", "start": 0, "end": 3},
               {"text": "a person waves with the right hand", "start": 3, "end": 6}],
    "upper": [], "waypoints": [], "remakes": []}


class Layout(Desk):
    """The web page. The button of each tab calls a method of ``Workshop``."""

    def build(self) -> gr.Blocks:
        """Build the page."""
        models, workshop = self.workshop.models, self.workshop
        self.example = workshop.make(Ask(self.seed, workshop.sampling.cond_scale, EXAMPLES[0]))[0]
        with gr.Blocks(title="LaMP", analytics_enabled=False, fill_width=True) as page:
            gr.Markdown(INTRO)
            self.table = gr.State([])  # ids of the displayed motions
            with gr.Tabs(selected="generate", overflow_behavior="wrap") as self.tabs:
                with gr.Tab("Generate", id="generate"):
                    self._generate_form()
                with gr.Tab("Timeline", id="timeline"):
                    self._timeline_form()
                with gr.Tab("Edit", id="edit"):
                    self._edit_form()
                with gr.Tab("Caption", id="caption"):
                    if models.captioner is None:
                        gr.Markdown("There is no captioning model. Name one with `--m2t_name`.")
                    else:
                        self._caption()
                with gr.Tab("Search", id="search"):
                    if models.lamp is None:
                        gr.Markdown("There is no model for search. Name a LaMP model with `--lamp_name`.")
                    else:
                        self._search()
                with gr.Tab("History", id="history"):
                    self._history()
            # Handlers are added after all tabs, because each result updates the motion lists of the other tabs.
            self._generate()
            self._timeline()
            self._edit()
            arrived = [*self.shown, *self.offered, self.fault, *self.form, self.lines]
            page.load(self._arrive, None, arrived, api_visibility="private", concurrency_limit=None,
                      show_progress_on=self.view)
            page.unload(self.leave)
            add_api(self)
        return page

    def _generate_form(self) -> None:
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                prompt = self.prompt("What does the person do?", EXAMPLES[0])
                with gr.Row():
                    self.go = gr.Button("Generate", variant="primary", min_width=120)
                    self.again = gr.Button("Again", min_width=120)
                self.stop = self.cancel()
                gr.Examples([[example] for example in EXAMPLES], [prompt], label="For example")
                with gr.Accordion("Settings", open=False):
                    auto = gr.Checkbox(True, label="Let the model choose the length")
                    seconds = gr.Number(6, label=f"Seconds, at most {LIMITS.seconds:g}", visible=False)
                    auto.change(lambda chosen: gr.update(visible=not chosen), auto, seconds, queue=False,
                                api_visibility="private")
                    draws = self.draws()
            self.fault, self.view = self.stage("The motion will play here.")
        self.form = [prompt, auto, seconds, *draws]
        self.shown = [self.view, self.table]

    def _generate(self) -> None:
        prompt, _, _, seed, *_ = self.form

        def generate(owner: str, text: str, by_model: bool, length: float, seed: float, guidance: float, count: float,
                     formats: Sequence[str]) -> Update:
            ask = self.ask(prompt=text, seconds=None if by_model else length, seed=seed, guidance=guidance)
            return self._show(self.view, owner, self.workshop.make(ask, count, formats))

        def again(owner: str, shown: Sequence[str]) -> Update:
            if not shown:
                raise InputError("generate a motion first")
            return another(owner, shown[-1], shown)

        def another(owner: str, identity: str, shown: Sequence[str]) -> Update:
            last = self.take(owner, identity)
            made = self.workshop.make(replace(last.ask, seed=new_seed()), 1, last.formats)
            beside = [self.workshop.refreshed(self.take(owner, one)) for one in shown[-SIDE_BY_SIDE + 1:]]
            return {seed: made[0].ask.seed} | self._show(self.view, owner, made, beside)

        outputs = [*self.shown, *self.offered, seed]
        self.on([self.go.click, prompt.submit], generate, self.form, outputs, self.view, self.fault, self.stop)
        self.on([self.again.click], again, [self.table], outputs, self.view, self.fault, self.stop)
        self._keeps(self.view, self.fault)

        def reopen(owner: str, identity: str, _: Sequence[str]) -> Update:
            take = self.workshop.refreshed(self.take(owner, identity))
            return self._show(self.view, owner, (), [take]) | {self.tabs: gr.update(selected="generate")}

        def retake(owner: str, identity: str, _: Sequence[str]) -> Update:
            return another(owner, identity, [identity]) | {self.tabs: gr.update(selected="generate")}

        self.on_button(self.past, {"open": reopen, "again": retake}, [self.table], [*outputs, self.tabs], self.past,
                       self.past_fault)
        self._edits(self.past, self.past_fault)

    def ask(self, **record: Any) -> Ask:
        """Validate the inputs and return them as a request."""
        return Ask.read({name: value for name, value in record.items() if value is not None})

    def _show(self, view: gr.HTML, owner: str, made: Sequence[Take], beside: Sequence[Take] = ()) -> Update:
        """Return updates that show motions in ``view``: those to compare with (``beside``), then the new ones."""
        takes = [*beside, *made]
        offers = self.made(owner, made) if made else self.offers(owner, takes[-1].id)
        displayed = {self.table: [take.id for take in takes]} if view is self.view else {}
        return {view: stage_of(takes)} | displayed | offers

    def _keeps(self, view: gr.HTML, fault: gr.HTML) -> None:
        """Handle the buttons of the motions in ``view`` that keep a motion or open it in the edit tab."""

        def keep(owner: str, identity: str) -> Update:
            self.history.keep(owner, identity)
            return self._show(view, owner, (), [self.take(owner, identity)])

        outputs = [view, *([self.table] if view is self.view else []), *self.offered]
        self.on_button(view, {"keep": keep}, [], outputs, view, fault)
        self._edits(view, fault)

    def _arrive(self, request: gr.Request, progress: gr.Progress = PROGRESS) -> Update:
        """Show the motion of the permalink if there is one, else the latest motion of the history, else the example."""
        owner, query = self.guests.owner(request), dict(request.query_params)
        latest = self.history.of(owner)[:1]

        def work() -> Update:
            if not {"prompt", "blocks"} & query.keys():
                take = self.workshop.refreshed(latest[0] if latest else self.example)
                return self._show(self.view, owner, (), [take])
            ask = Ask.from_query(query)
            takes = self.workshop.make(ask, model=query.get("model"))
            prompt, auto, seconds, seed, guidance, *_ = self.form
            record = ask.record()
            lines = {self.lines: {name: record.get(name, []) for name in TIMELINE}} if ask.blocks else {}
            return self._show(self.view, owner, takes) | lines | {
                prompt: ask.prompt, auto: ask.seconds is None, seconds: ask.seconds or 6, seed: ask.seed,
                guidance: ask.guidance}

        return self._handled(request, work, self.fault, progress)

    def _edits(self, part: gr.HTML, fault: gr.HTML) -> None:
        """Make the buttons in ``part`` open a motion in the edit tab."""

        def edit(owner: str, identity: str) -> Update:
            if identity.startswith(FOUND):
                label = self.workshop.open_file(identity.removeprefix(FOUND))[0].name
                choices = [(take.label, take.id) for take in self.history.of(owner)]
                chosen = gr.update(choices=[*choices, (label, identity)], value=identity)
            else:
                if self.example is not None and identity == self.example.id:
                    self.history.add(owner, [self.example])
                chosen = self.offers(owner, identity)[self.edit_source[2]]
            return {self.tabs: gr.update(selected="edit"), self.edit_source[0]: MADE_HERE, self.edit_source[2]: chosen}

        self.on_button(part, {"edit": edit}, [], [self.tabs, self.edit_source[0], self.edit_source[2]], part, fault)

    def _timeline_form(self) -> None:
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self.lines = drawn("timeline", TIMELINE)
                self.line_go = gr.Button("Make the motion", variant="primary")
                self.line_stop = self.cancel()
                with gr.Accordion("Settings", open=False):
                    seed, guidance, count, formats = self.draws()
            self.line_fault, self.line_view = self.stage("The motion of all blocks will play here.")
        self.line_form = [self.lines, seed, guidance, count, formats]

    def _timeline(self) -> None:
        def timeline(owner: str, lines: dict[str, Any], seed: float, guidance: float, count: float,
                     formats: Sequence[str]) -> Update:
            takes = self.workshop.make(self.ask(**lines, seed=seed, guidance=guidance), count, formats)
            return self._show(self.line_view, owner, takes)

        def remake(owner: str, block: str, lines: dict[str, Any], *how: Any) -> Update:
            track, number = block.split()
            again = {"track": track, "block": int(number), "seed": new_seed()}
            others = [one for one in lines["remakes"] if (one["track"], one["block"]) != (track, int(number))]
            lines = lines | {"remakes": [*others, again]}
            return {self.lines: lines} | timeline(owner, lines, *how)

        outputs = [self.line_view, *self.offered]
        self.on([self.line_go.click], timeline, self.line_form, outputs, self.line_view, self.line_fault,
                self.line_stop)
        self.on_button(self.lines, {"remake": remake}, self.line_form, [*outputs, self.lines], self.line_view,
                       self.line_fault)
        self._keeps(self.line_view, self.line_fault)

    def _edit_form(self) -> None:
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.edit_source = self.source_inputs("A motion to edit")
                sections = gr.Textbox("0.3,0.6", label="Parts to regenerate", max_lines=1, max_length=200,
                                      info="Shares of the motion such as 0.3,0.6, or tokens of 4 frames such as 20,40")
                bar = drawn("paint", None)
                prompt = self.prompt("What happens in these parts?", "a person kicks with the left leg")
                self.edit_go = gr.Button("Edit", variant="primary")
                self.edit_stop = self.cancel()
                with gr.Accordion("Settings", open=False):
                    draws = self.draws()
            self.edit_fault, self.edit_view = self.stage("The edited motion and the original will play here.")
        self.edit_form = [*self.edit_source, sections, prompt, *draws]

        def contacts(request: gr.Request, origin: str, upload: str | None, chosen: str | None, text: str) -> Any:
            pipeline, spec = self.workshop.pipeline, self.workshop.spec
            try:
                features = self.source(self.guests.owner(request), origin, upload, chosen).features
            except InputError:  # reported when the edit is submitted
                return None
            return contact_bar(pipeline.joints(features), spec.skeleton, spec.fps) | {
                "tokens": len(features) // pipeline.unit, "sections": text}

        gr.on([part.change for part in self.edit_source], contacts, [*self.edit_source, sections], bar,
              concurrency_limit=1, show_progress="hidden", api_visibility="private")
        sections.input(None, [sections, bar], bar, js="(sections, bar) => bar && { ...bar, sections }",
                       api_visibility="private")
        bar.input(None, bar, sections, js="(bar) => bar.sections", api_visibility="private")

    def _edit(self) -> None:
        def edit(owner: str, origin: str, upload: str | None, chosen: str | None, sections: str, text: str,
                 seed: float, guidance: float, count: float, formats: Sequence[str]) -> Update:
            ask = self.ask(prompt=text, sections=sections, seed=seed, guidance=guidance)
            if not ask.sections:
                raise InputError(f"name 1 to {LIMITS.sections} parts, such as 0.3,0.6")
            takes = self.workshop.make(ask, count, formats, self.source(owner, origin, upload, chosen))
            shown = self._show(self.edit_view, owner, takes)
            if origin == MADE_HERE:  # keep the same motion selected
                shown[self.edit_source[2]] = self.offers(owner, chosen)[self.edit_source[2]]
            return shown

        prompt = self.edit_form[4]
        outputs = [self.edit_view, *self.offered]
        self.on([self.edit_go.click, prompt.submit], edit, self.edit_form, outputs, self.edit_view, self.edit_fault,
                self.edit_stop)
        self._keeps(self.edit_view, self.edit_fault)

    def _caption(self) -> None:
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                source = self.source_inputs("A motion to caption")
                count = gr.Number(3, label=f"Captions, at most {LIMITS.captions}")
                drawn = gr.Checkbox(False, label="Sample captions instead of taking the most likely words")
                seed = gr.Number(self.seed, label="Seed")
                button = gr.Button("Caption", variant="primary")
                stop = self.cancel()
                captions = gr.HTML()
            fault, view = self.stage("The motion will play here, with its caption.")

        def work(owner: str, origin: str, upload: str | None, chosen: str | None, *how: Any) -> Update:
            shown = self.workshop.caption(self.source(owner, origin, upload, chosen), *how)
            return {view: page_of(shown), captions: table(shown.rows)}

        self.on([button.click], work, [*source, count, drawn, seed], [view, captions], view, fault, stop)

    def _search(self) -> None:
        places = [*(["the gallery"] if self.workshop.models.gallery else []), "motions generated here"]
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                text = self.prompt("What are you looking for?", "someone waves")
                with gr.Accordion("Or search with a motion instead of text", open=False):
                    source = self.source_inputs("The motion to search with")
                place = gr.Radio(places, value=places[0], label="Search in")
                top_k = gr.Number(6, label=f"Number of results, at most {LIMITS.found}")
                button = gr.Button("Search", variant="primary")
                stop = self.cancel()
            with gr.Column(scale=5, min_width=340):
                fault, view = results(classes=["faults"]), results(EMPTY.format("Results will appear here."))
                found = results()

        def work(owner: str, words: str, origin: str, upload: str | None, chosen: str | None, among: str,
                 count: float) -> Update:
            asked = None if (words or "").strip() else self.source(owner, origin, upload, chosen)
            takes = self.history.of(owner) if among == places[-1] else None
            said, hits = self.workshop.search(words, asked, takes, count)
            cards = [Card(hit.take or FOUND + str(hit.file), hit.prompt, f"{hit.score:.2f} · {hit.seconds:.1f} s",
                          hit.picture, (("open", "Open"), ("edit", "Edit"))) for hit in hits]
            return {view: cards_of(cards, said), found: ""}

        def reopen(owner: str, identity: str) -> Update:
            if identity.startswith(FOUND):
                return {found: page_of(self.workshop.open_file(identity.removeprefix(FOUND))[1])}
            return {found: stage_of([self.workshop.refreshed(self.take(owner, identity))])}

        self.on([button.click, text.submit], work, [text, *source, place, top_k], [view, found], view, fault, stop)
        self.on_button(view, {"open": reopen}, [], [found], found, fault)
        self._edits(view, fault)
        self._edits(found, fault)

    def _history(self) -> None:
        words = gr.Textbox(label="Search the history", placeholder="walks", lines=1, max_lines=1)
        self.past_fault = results(classes=["faults"])
        self.past.render()

        def narrowed(text: str, request: gr.Request) -> str:
            return history_of(self.history.search(self.guests.owner(request), text))

        words.change(narrowed, words, self.past, queue=False, api_visibility="private", show_progress="hidden")
