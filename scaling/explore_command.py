"""`isoloss explore`: the explorer in the browser, served from this machine to this machine."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import webbrowser
from typing import Annotated

import typer

from scaling import output

HOST = "127.0.0.1"


def explore(
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = 8050,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser; open the printed address yourself.")] = False,
) -> None:
    """Open a page to move gaps, data, chips, dates and controls, and see the figures change."""
    from scaling.errors import InputError

    listener = _listen(port)
    try:
        from werkzeug.serving import make_server

        from scaling.explorer.page import build
    except ModuleNotFoundError as error:
        raise InputError(f"explore: {error.name} is missing; install the extra: pip install 'isoloss[explore]'") from None
    from scaling.explorer.answers import answer
    from scaling.explorer.state import State
    from scaling.paths import use_compilation_cache

    use_compilation_cache()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line a request
    server = make_server(HOST, listener.getsockname()[1], build().server, threaded=True, fd=listener.fileno())
    address = f"http://{HOST}:{listener.getsockname()[1]}/"
    output.say(f"explorer: {address} (Ctrl-C ends it)")
    sys.stdout.flush()
    # What the first page needs is compiled while the browser opens.
    threading.Thread(target=answer, args=(State(),), daemon=True).start()
    if not no_browser:
        webbrowser.open(address)
    server.serve_forever()


def _listen(port: int) -> socket.socket:
    from scaling.errors import InputError

    if not 0 <= port <= 65535:
        raise InputError(f"explore: --port is a number from 0 to 65535, got {port}")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise InputError(
            f"explore: port {port} cannot be used ({error.strerror}); choose another with --port, or 0 for a free one"
        ) from None
    listener.listen(128)
    return listener
