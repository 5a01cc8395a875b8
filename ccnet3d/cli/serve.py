"""``ccnet3d-serve``: a local web page and REST interface that segment videos and photos."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import re
import socket
import sys
from collections.abc import Sequence
from types import FrameType

from ccnet3d.cli.command_parser import CommandParser
from ccnet3d.cli.infer import chosen_smoothing
from ccnet3d.cli.options import (
    add_debug_option,
    add_model_options,
    load_segmenter,
    non_negative,
    positive,
    print_now,
    run_command,
)
from ccnet3d.cli.streams import print_message
from ccnet3d.errors import UserError

PROGRAM = "ccnet3d-serve"

_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?\.?")
"""Names of hosts and IPv4 addresses, as a browser sends them."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LAST_PORT = 65_535


def host_name(text: str) -> str:
    """Check a host name or an IP address, without a port."""
    if _HOST_NAME.fullmatch(text):
        return text
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a host name or an IP address, such as example.org, got {text!r}"
        ) from None


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=PROGRAM,
        description="Serve a web page that segments dropped videos and photos, and a REST interface: POST /segment.",
    )
    parser.add_argument(
        "--host", type=host_name, default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)"
    )
    parser.add_argument("--port", type=non_negative, default=8000, help="0 for any free one (default: 8000)")
    parser.add_argument(
        "--allow-host",
        type=host_name,
        action="append",
        default=[],
        metavar="NAME",
        help="a further host name by which clients may address the server; may be repeated",
    )
    limits = parser.add_argument_group("limits of a request")
    limits.add_argument("--max-megabytes", type=positive, default=200, metavar="N", help="of the file (default: 200)")
    limits.add_argument(
        "--max-seconds", type=positive, default=600, metavar="N", help="of upload, and of work (default: 600)"
    )
    limits.add_argument("--max-frames", type=positive, default=10_000, metavar="N", help="(default: 10000)")
    limits.add_argument(
        "--max-waiting",
        type=non_negative,
        default=4,
        metavar="N",
        help="requests that may wait for the one being segmented; others get status 503 (default: 4)",
    )
    model = parser.add_argument_group("model")
    add_model_options(model)
    model.add_argument(
        "--smooth", type=non_negative, metavar="N", help="as of ccnet3d-infer, where a request does not say"
    )
    parser.set_defaults(frame_stride=1)
    add_debug_option(parser)
    return parser


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        UserError: the address cannot be used.
    """
    if port > _LAST_PORT:
        raise UserError(f"--port must be 0 to {_LAST_PORT}, got {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen on {host} port {port}: {reason}; give another --host or --port") from error


def impatient_protocol(seconds: float = 10) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, which closes a connection that brings no whole header within some seconds.

    Otherwise a client that sends one byte at a time could keep all of the server's connections.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.loop.call_later(seconds, self._close_if_silent)

        def _close_if_silent(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.close()

    return Impatient


def run(arguments: argparse.Namespace) -> None:
    from ccnet3d.serving import ServerLimits, make_app

    try:
        import uvicorn
    except ImportError as error:
        raise UserError("serving needs uvicorn; run: pip install 'ccnet3d[serve]'") from error
    limits = ServerLimits(arguments.max_megabytes, arguments.max_seconds, arguments.max_frames, arguments.max_waiting)
    with listen(arguments.host, arguments.port) as listener:
        app = make_app(
            load_segmenter(arguments),
            limits,
            hosts=[arguments.host, *arguments.allow_host],
            smoothing_for=lambda rate: chosen_smoothing(arguments, rate),
        )
        if arguments.host not in _LOOPBACK:
            print_message(
                f"{PROGRAM}: warning: everyone who reaches {arguments.host} can use this server; it has no "
                "passwords and no encryption"
            )
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        print_now(f"open http://{host}:{listener.getsockname()[1]}/ in a browser; end with Ctrl-C")
        config = uvicorn.Config(
            app, http=impatient_protocol(), log_level="warning", timeout_graceful_shutdown=10, server_header=False
        )

        class Server(uvicorn.Server):
            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                app.state.end_jobs()  # else the server would wait for their masks
                super().handle_exit(sig, frame)

        Server(config).run(sockets=[listener])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; see :func:`ccnet3d.cli.options.run_command`."""
    arguments = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: run(arguments), debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
