"""Build hooks of the documentation: the list of functions, and the help of the commands."""

from __future__ import annotations

import re

from jca_fast import functional
from jca_fast.cli import COMMANDS, build_parser

REPOSITORY_FILE = re.compile(r"\]\(\.\./(?!\.\.)([\w./-]+)\)")


def on_page_markdown(markdown: str, page, **_) -> str:
    """Fill the pages of the functions and of the command line; unlink files outside the site."""
    if page.file.src_uri == "reference/functional.md":
        return markdown + "".join(f"\n::: jca_fast.functional.{n}" for n in functional.__all__)
    if page.file.src_uri == "reference/cli.md":
        return markdown + "".join(command_help(name) for name in COMMANDS)
    if "/" not in page.file.src_uri:
        return REPOSITORY_FILE.sub(r"](#)", markdown)
    return markdown


def command_help(name: str) -> str:
    """A section with the help of one command."""
    parser = build_parser(name)
    commands = next(action for action in parser._actions if action.dest == "command")
    text = commands.choices[name].format_help()
    return f"\n## jca-fast {name}\n\n```text\n{text}```\n"
