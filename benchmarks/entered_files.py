"""List the project modules that a script imports and the files whose functions it calls.

    python benchmarks/entered_files.py gen_t2m.py --text_prompt "a person walks" --motion_length 40
    python benchmarks/entered_files.py --until backward train_lamp.py --name tiny --vq_name vq_demo ...

Functions are recorded by a profile hook in all threads; module-level code and ``__init__.py`` files do not count.
"""
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class Reached(Exception):
    """The function of --until was called."""


def run(script: str, arguments: list[str], until: str | None = None) -> tuple[set[str], set[str]]:
    """Project modules imported by a script, and project files entered by its ``main`` before ``until`` is called."""
    entered: set[str] = set()
    importing = threading.local()  # nesting depth of imports

    def hook(frame: FrameType, event: str, _: Any) -> None:
        code, depth = frame.f_code, getattr(importing, "depth", 0)
        if code.co_name == "<module>" and event in ("call", "return"):
            importing.depth = depth + (1 if event == "call" else -1)
        elif event == "call" and not depth:
            if until and code.co_name == until:
                raise Reached
            if code.co_filename.startswith(f"{ROOT}/"):
                entered.add(str(Path(code.co_filename).relative_to(ROOT)))

    module = __import__(Path(script).stem)
    sys.argv = [script, *arguments]
    threading.setprofile(hook)
    sys.setprofile(hook)
    try:
        module.main()
    except Reached:
        pass
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    imported = {name for name, one in sys.modules.items()
                if (getattr(one, "__file__", None) or "").startswith(f"{ROOT}/")
                and not one.__file__.endswith("__init__.py")}
    return imported - {__name__, "__main__"}, {file for file in entered if not file.endswith("__init__.py")}


def main() -> None:
    arguments = sys.argv[1:]
    until = arguments.pop(1) if arguments[:1] == ["--until"] else None
    arguments = arguments[1:] if until else arguments
    if not arguments:
        print(__doc__)
        return
    modules, files = run(arguments[0], arguments[1:], until)
    print(f"{len(modules)} modules imported, {len(files)} files entered")
    for file in sorted(files - {"benchmarks/entered_files.py"}):
        print(file)


if __name__ == "__main__":
    main()
