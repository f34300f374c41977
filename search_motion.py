"""Search motions by text or by a motion, or captions by a motion, with LaMP's features."""
import json
import time
from pathlib import Path

from options.evaluate import parse_search_options
from utils import script
from utils.files import run_lock


@script
def main() -> None:
    opt = parse_search_options()  # before torch is imported, which takes seconds
    from data.dataset import dataset_spec
    from data.motion_files import prompt_of
    from data.text import clean_caption, read_texts, report, shortened
    from evaluation.search import encode_motions, nearest, open_gallery
    from models.lamp.features import encode_texts
    from models.text_to_motion import speed_up
    from storage.checkpoint import model_names
    from storage.generation import load_lamp
    from utils.files import write_text
    from utils.runtime import seed_everything, select_device

    seed_everything(opt.seed)
    spec = dataset_spec(opt.dataset_name)
    lamp = load_lamp(opt.name, spec, opt.checkpoints_dir, select_device(opt.gpu_id), opt.which_epoch)
    speed_up([lamp.model], cpu_linear=opt.cpu_linear)
    print(f"models: {model_names([lamp.source.file])}")
    out = Path(opt.output_dir) / opt.ext / "search.json"
    with run_lock(out.parent, "--ext"):
        if opt.text is not None:
            report([opt.text], lamp.text_encoder("query"), opt.strict)
            query = lamp.text_features([clean_caption(opt.text)]).cpu().numpy()
        else:
            query = encode_motions([Path(opt.motion)], lamp, spec, opt.up).vectors

        if opt.captions is not None:
            captions = read_texts(opt.captions)
            vectors = encode_texts(lamp.text_features, captions, opt.quiet).numpy()
            start = time.perf_counter()
            hits = nearest(query, vectors, opt.top_k)
            found = [{"score": hit.score, "caption": captions[hit.row]} for hit in hits]
        else:
            gallery = open_gallery(Path(opt.gallery), lamp, spec, opt.cache and Path(opt.cache), opt.quiet, opt.up)
            vectors = gallery.vectors
            start = time.perf_counter()
            hits = nearest(query, vectors, opt.top_k, [part.motion for part in gallery.parts])
            found = [{"score": hit.score, "file": str(gallery.files[part.motion]), "start": part.start / spec.fps,
                      "end": part.end / spec.fps, "prompt": prompt_of(gallery.files[part.motion])}
                     for hit in hits for part in (gallery.parts[hit.row],)]
        what = "captions" if opt.captions else "motion parts"
        print(f"searched {len(vectors)} {what} in {1000 * (time.perf_counter() - start):.0f} ms")

        for place, one in enumerate(found, 1):
            what = one.get("caption") or f"{one['file']}  {one['start']:.1f}-{one['end']:.1f} s"
            what += f"  {shortened(one['prompt'])!r}" if one.get("prompt") else ""
            print(f"{place:4d}  {one['score']:.3f}  {what}")
        result = {"query": opt.text or opt.motion, "found": found}
        write_text(out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
