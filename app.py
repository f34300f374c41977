"""The app in the browser: make, edit, caption and find motions, each played at once."""
from options.app import parse_app_options
from serving.server import serve
from utils.errors import script


@script
def main() -> None:
    serve(parse_app_options())


if __name__ == "__main__":
    main()
