"""Version 1 of the HTTP API. See docs/app.md."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from serving.asks import Ask, read_source
from serving.desk import line_of
from serving.history import described
from serving.stage import ADDRESS, ARCHIVES
from serving.workshop import PAGE, SourceMotion
from utils import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.desk import Desk
    from serving.history import Take


def add_api(desk: Desk) -> None:
    """Add the API endpoints to the current Gradio page."""
    workshop = desk.workshop

    def job(request: gr.Request, work: Callable[[str], Any]) -> Any:
        try:
            return desk.run(desk.guests.visitor(request), lambda: work(desk.guests.owner(request)))
        except Exception as error:
            raise gr.Error(line_of(error), print_exception=False) from error

    def made(owner: str, takes: list[Take]) -> dict:
        desk.history.add(owner, takes)
        return {"version": 1, "motions": [
            described(take, workshop.models, workshop.sampling) | {
                "id": take.id, "page": f"{ADDRESS}/{take.id}/{PAGE}", "archive": f"{ARCHIVES}/{take.id}",
                "files": {name.removeprefix(take.ask.stem).replace(".", "_").replace("__", "_").strip("_"):
                          f"{ADDRESS}/{take.id}/{name}" for name in take.files}} for take in takes]}

    def v1_generate(prompt: str, request: gr.Request, seconds: float | None = None, seed: int = 3407,
                    guidance: float | None = None, count: int = 1, formats: list[str] = ["bvh"]) -> dict:  # noqa: B006
        """Generate motions from a prompt. seconds: length, or null to let the model choose. formats: bvh, mp4, glb."""

        def work(owner: str) -> dict:
            ask = Ask.read({"prompt": prompt, "seconds": seconds, "seed": seed,
                            "guidance": workshop.sampling.cond_scale if guidance is None else guidance})
            return made(owner, workshop.make(ask, count, formats))

        return job(request, work)

    def v1_make(ask: dict, request: gr.Request, formats: list[str] = ["bvh"]) -> dict:  # noqa: B006
        """Generate the motion described by an "ask" object, as in motions.json: a prompt, an edit or a timeline."""

        def work(owner: str) -> dict:
            record, model = ask, None
            if isinstance(ask, dict):  # others are refused by Ask.read
                record, model = {name: value for name, value in ask.items() if name != "model"}, ask.get("model")
            return made(owner, workshop.make(Ask.read(record), 1, formats, model=model))

        return job(request, work)

    def chosen(owner: str, motion: Any) -> SourceMotion:
        if not isinstance(motion, dict):
            return workshop.source(None, desk.take(owner, motion))
        return workshop.source_of(read_source(motion))

    def v1_source(file: dict | str, request: gr.Request) -> dict:
        """Load a motion for editing, captioning or search: an upload, or the name of a file in the gallery."""

        def work(_: str) -> dict:
            if isinstance(file, str):
                source = workshop.open_file(file)[0]
            else:
                path = Path(str(file.get("path") if isinstance(file, dict) else file)).resolve()
                if not path.is_relative_to(workshop.rooms.uploads.resolve()):
                    raise InputError("upload the file first")
                source = workshop.source(str(path), None)
            source = workshop.stored(source)
            return {"version": 1, "source": source.record, "frames": len(source.features), "fps": workshop.spec.fps,
                    "remarks": list(source.remarks)}

        return job(request, work)

    def v1_caption(motion: dict | str, request: gr.Request, count: int = 1) -> dict:
        """Caption a motion. Returns captions with their times.

        motion: the id of a generated motion, or a source: an ask, or the "source" that v1_source returns. count: number
        of captions per part of a long motion.
        """

        def work(owner: str) -> dict:
            shown = workshop.caption(chosen(owner, motion), count, False, desk.seed)
            return {"version": 1, "captions": [{"time": when, "text": text} for when, text in shown.rows]}

        return job(request, work)

    def v1_search(text: str | None, request: gr.Request, motion: dict | str | None = None, place: str | None = None,
                  count: int = 6) -> dict:
        """Search the "gallery" or the "history" by text or, if text is null, by a motion."""

        def work(owner: str) -> dict:
            source = None if text is not None else chosen(owner, motion)
            among = place or ("gallery" if workshop.models.gallery else "history")
            if among not in ("gallery", "history"):
                raise InputError(f"place must be gallery or history, not {str(among)[:40]}")
            takes = desk.history.of(owner) if among == "history" else None
            said, hits = workshop.search(text, source, takes, count)
            return {"version": 1, "message": said, "results": [
                {"prompt": hit.prompt, "score": round(float(hit.score), 4), "seconds": round(hit.seconds, 3)}
                | ({"file": hit.file} if hit.file else {"id": hit.take}) for hit in hits]}

        return job(request, work)

    for endpoint in (v1_generate, v1_make, v1_source, v1_caption, v1_search):
        gr.api(endpoint, concurrency_limit=None)


