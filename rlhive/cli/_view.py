"""The verb ``rlhive view``: a page on which a dataset is looked at."""

import platform
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from rlhive.cli._diff import VersionAddress, find_address
from rlhive.cli._terminal import complete_names, out

_OtherAddress = Annotated[
    str | None,
    typer.Argument(metavar="NAME2", help="A second dataset or version, side by side.", autocompletion=complete_names),
]


def view(
    name: VersionAddress,
    other: _OtherAddress = None,
    split: Annotated[str | None, typer.Option(help="Only these splits, joined by +.")] = None,
    where: Annotated[str | None, typer.Option(help="Condition on the episodes: success and return > -40.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; a free one by default.")] = 0,
    export: Annotated[
        Path | None, typer.Option(help="Write one self-contained file named .html instead of serving the page.")
    ] = None,
    pictures: Annotated[
        int,
        typer.Option(min=0, help="Episodes with pictures in the exported file; rendered where none are stored."),
    ] = 3,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Look at a dataset in a browser. Episodes, pictures, distributions, checks; never runs a recipe."""
    from rlhive.viewer import ViewedDataset, ViewerServer, export_page

    addresses = [name] if other is None else [name, other]
    datasets = [ViewedDataset(find_address(address), split=split, where=where) for address in addresses]
    if export is not None:
        page = export_page(datasets, export, pictures=pictures)
        out.print(f"Written: {page.path}, {page.num_bytes / 1e6:.1f} MB. {page.note}", highlight=False, soft_wrap=True)
        return
    server = ViewerServer(datasets, port=port)
    out.print(
        f"{' beside '.join(dataset.label for dataset in datasets)}: {server.url}", highlight=False, soft_wrap=True
    )
    out.print(
        f"From another machine: ssh -L {server.port}:127.0.0.1:{server.port} {platform.node()}, "
        "then the same address. Ctrl-C ends the viewer.",
        highlight=False,
        soft_wrap=True,
    )
    if browser:
        webbrowser.open(server.url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.close()
        out.print("The viewer has ended.", highlight=False)
