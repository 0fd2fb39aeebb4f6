"""The `diptych` command. Heavy imports are inside the commands, so that help comes at once."""

from __future__ import annotations

import os
import sys

import typer

from diptych.cli import (
    chat,
    classify,
    collection,
    demo,
    doctor,
    embed,
    image,
    interrogate,
    jobs,
    key,
    models,
    rerun,
    serve,
    top,
    translate,
    upscale,
)
from diptych.cli.errors import CliError
from diptych.core.errors import DiptychError

app = typer.Typer(
    name="diptych", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A local studio for language models and image models: a server with OpenAI's API, and this command.")

app.command()(serve.serve)
app.command()(image.image)
app.command()(interrogate.interrogate)
app.command()(upscale.upscale)
app.command()(upscale.watermark)
app.command(epilog=chat.EPILOG)(chat.chat)
app.command(epilog=classify.EPILOG)(classify.classify)
app.command(epilog=translate.EPILOG)(translate.translate)
app.command(epilog=embed.EPILOG)(embed.embed)
app.add_typer(models.app, name="models")
app.add_typer(collection.app, name="collection")
app.add_typer(jobs.app, name="jobs")
app.add_typer(key.app, name="key")
app.command()(top.top)
app.command()(rerun.rerun)
app.command()(doctor.doctor)
app.command()(demo.demo)


@app.command()
def version() -> None:
    """Print the version of Diptych."""
    import diptych

    print(diptych.__version__)


def main() -> None:
    """Run the command. Exit status 0: done, 1: not done, 2: wrong usage, 130: ended by Ctrl-C."""
    try:
        app(prog_name="diptych")
    except CliError as error:
        print(f"diptych: {error.message}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, as in `diptych jobs list | head`
        sys.stderr.close()
        sys.exit(1)
    except DiptychError as error:
        print(f"diptych: {error.message}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if os.environ.get("DIPTYCH_DEBUG"):
            raise
        print(f"diptych: a fault in diptych itself: {type(error).__name__}: {error} (DIPTYCH_DEBUG=1 shows where; "
              "please report it)", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
