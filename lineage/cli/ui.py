"""``lineage ui``: MLflow's UI with the page of families, on the store in use."""

from typing import Annotated

import typer

from lineage.cli.output import print_text


def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 5000,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser.")] = False,
) -> None:
    """Start MLflow's UI with a page that draws family trees, and print its address; Ctrl-C stops it.

    If the tracking URI is a server already, nothing is started and its address is printed.
    """
    from lineage.registry.store.server import serve

    def announce(address: str) -> None:
        print_text(f"Families: {address}")
        if browser:
            typer.launch(address)

    serve(host, port, announce)
