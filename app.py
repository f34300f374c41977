"""Browser app to generate, edit, caption and search motions."""
from options.evaluate import parse_app_options
from utils import script


@script
def main() -> None:
    opt = parse_app_options()  # before torch is imported, which takes seconds
    from serving.server import serve

    serve(opt)


if __name__ == "__main__":
    main()
