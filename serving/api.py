"""Version 1 of the programming interface: docs/app.md."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from serving.asks import Ask
from serving.desk import line_of
from serving.manifest import described
from serving.stage import ADDRESS, ARCHIVES
from serving.workshop import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.desk import Desk
    from serving.history import Take


def add_api(desk: Desk) -> None:
    """Add the endpoints to the page that is being built."""
    workshop, limits = desk.workshop, desk.limits

    def job(request: gr.Request, work: Callable[[str], Any]) -> Any:
        try:
            return desk.run(desk.guests.visitor(request), lambda: work(desk.guests.owner(request)))
        except Exception as error:
            raise gr.Error(line_of(error), print_exception=False) from error

    def describe(takes: list[Take]) -> dict:
        return {"version": 1, "motions": [
            described(take, workshop.models, workshop.sampling) | {
                "id": take.id, "page": f"{ADDRESS}/{take.id}/{PAGE}", "archive": f"{ARCHIVES}/{take.id}",
                "files": {name.removeprefix(take.ask.stem).replace(".", "_").replace("__", "_").strip("_"):
                          f"{ADDRESS}/{take.id}/{name}" for name in take.files}} for take in takes]}

    def v1_generate(prompt: str, request: gr.Request, seconds: float | None = None, seed: int = 3407,
                    guidance: float | None = None, count: int = 1, formats: list[str] = ["bvh"]) -> dict:  # noqa: B006
        """Motions of a prompt. seconds: length, null lets the model choose; formats: bvh, mp4, glb."""

        def work(owner: str) -> dict:
            ask = Ask.read({"prompt": prompt, "seconds": seconds, "seed": seed,
                            "guidance": workshop.sampling.cond_scale if guidance is None else guidance}, limits)
            takes = workshop.make(ask, count, formats)
            desk.history.add(owner, takes)
            return describe(takes)

        return job(request, work)

    def v1_make(ask: dict, request: gr.Request, formats: list[str] = ["bvh"]) -> dict:  # noqa: B006
        """The motion of an ask of motions.json: generated, edited or a timeline."""

        def work(owner: str) -> dict:
            record = dict(ask)
            model = record.pop("model", None)
            takes = workshop.make(Ask.read(record, limits), 1, formats, model=model)
            desk.history.add(owner, takes)
            return describe(takes)

        return job(request, work)

    def v1_caption(motion: str, request: gr.Request, count: int = 1) -> dict:
        """Captions of a motion that this visitor made, by its id, as rows of time and text."""

        def work(owner: str) -> dict:
            source = workshop.source(None, desk.take(owner, motion))
            shown = workshop.caption(source, count, False, desk.seed)
            return {"version": 1, "captions": [{"time": when, "text": text} for when, text in shown.rows]}

        return job(request, work)

    for endpoint in (v1_generate, v1_make, v1_caption):
        gr.api(endpoint, concurrency_limit=None)


