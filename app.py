"""The app in the browser: generate, edit, caption and search motions."""
from options.app import parse_app_options
from utils.errors import script

if __name__ == "__main__":
    script(parse_app_options)()  # --help and wrong flags are answered before torch is imported

from serving.server import serve


@script
def main() -> None:
    serve(parse_app_options())


if __name__ == "__main__":
    main()
