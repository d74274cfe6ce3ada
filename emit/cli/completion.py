"""``emit completion bash|zsh|fish``: print a script for a shell, made from all parsers."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import emit.cli as cli

HELP = "Print a script that completes the commands and options of emit in a shell."

EXAMPLES = """
  emit completion bash > ~/.local/share/bash-completion/completions/emit
  emit completion zsh > ~/.zfunc/_emit       # a folder in $fpath
  emit completion fish > ~/.config/fish/completions/emit.fish
"""


@dataclass(frozen=True)
class Option:
    """
    One option of a command.

    Attributes:
        names: All its names, such as ``-f`` and ``--format``.
        choices: The words that may follow it, if they are known.
        takes_value: True if a value has to follow it.
        help: Its help text.
    """

    names: tuple[str, ...]
    choices: tuple[str, ...]
    takes_value: bool
    help: str


@dataclass(frozen=True)
class Command:
    """A command: its name, its purpose, its options, and the fixed words that it takes."""

    name: str
    help: str
    options: tuple[Option, ...]
    words: tuple[str, ...]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(arguments: argparse.Namespace) -> int:
    write = {"bash": bash, "zsh": zsh, "fish": fish}[arguments.shell]
    print("\n".join(write(commands())))
    return 0


def commands() -> list[Command]:
    """Return all commands, as their parsers describe them."""
    return [_command(name, what) for name, what in cli.COMMANDS.items()]


def _command(name: str, what: str) -> Command:
    actions = list(_actions(cli.make_parser(name)))
    options = {action.option_strings[0]: action for action in actions if action.option_strings}
    words = [choice for a in actions if not a.option_strings for choice in a.choices or ()]
    return Command(name, what, tuple(map(_option, options.values())), tuple(words))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the actions of a parser and of its subcommands, such as ``emit dead list``."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)


def _option(action: argparse.Action) -> Option:
    text = (action.help or "") % {**vars(action), "prog": "emit"}
    choices = tuple(map(str, action.choices or ()))
    return Option(tuple(action.option_strings), choices, action.nargs != 0, text)


def bash(all_commands: list[Command]) -> Iterator[str]:
    """Yield the lines of a script for bash. It completes all other words as files."""
    yield "_emit() {"
    yield '    local command="${COMP_WORDS[1]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""'
    yield '    if [ "$COMP_CWORD" -eq 1 ]; then'
    yield f'        words="{" ".join(command.name for command in all_commands)}"'
    yield "    else"
    yield '        case "$command $before" in'
    for command, option in _with_choices(all_commands):
        names = "|".join(f'"{command.name} {name}"' for name in option.names)
        yield f'            {names}) words="{" ".join(option.choices)}" ;;'
    yield "            *)"
    yield '                case "$command" in'
    for command in all_commands:
        yield f'                    {command.name}) words="{" ".join(_words(command))}" ;;'
    yield "                esac ;;"
    yield "        esac"
    yield "    fi"
    # Not mapfile, which the bash 3.2 of macOS lacks. No word here contains a space.
    yield '    COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))'
    yield "}"
    yield "complete -o bashdefault -o default -F _emit emit"


def zsh(all_commands: list[Command]) -> Iterator[str]:
    """Yield the lines of a script for zsh. It can be a file in ``$fpath``, or be sourced."""
    yield "#compdef emit"
    yield "_emit() {"
    yield "    if (( CURRENT == 2 )); then"
    yield "        local -a commands"
    yield "        commands=("
    for command in all_commands:
        yield f"            {shlex.quote(f'{command.name}:{command.help}')}"
    yield "        )"
    yield "        _describe -t commands 'emit command' commands"
    yield "        return"
    yield "    fi"
    yield '    case "$words[2] $words[CURRENT-1]" in'
    for command, option in _with_choices(all_commands):
        names = "|".join(f"'{command.name} {name}'" for name in option.names)
        yield f"        ({names}) compadd -- {' '.join(option.choices)}; return ;;"
    yield "    esac"
    yield '    case "$words[2]" in'
    for command in all_commands:
        yield f"        ({command.name}) compadd -- {' '.join(_words(command))} ;;"
    yield "    esac"
    yield "    _files"
    yield "}"
    yield 'if [ "$funcstack[1]" = "_emit" ]; then _emit "$@"; else compdef _emit emit; fi'


def fish(all_commands: list[Command]) -> Iterator[str]:
    """Yield the lines of a script for fish, which shows the purpose of each word."""
    for command in all_commands:
        what = f"-a {command.name} -d {_quoted(command.help)}"
        yield f"complete -c emit -n __fish_use_subcommand {what}"
    for command in all_commands:
        seen = f"complete -c emit -n '__fish_seen_subcommand_from {command.name}'"
        if command.words:
            yield f"{seen} -a {_quoted(' '.join(command.words))}"
        for option in command.options:
            names = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                for name in option.names
            )
            value = f" -xa {_quoted(' '.join(option.choices))}" if option.choices else ""
            value = value or (" -r" if option.takes_value else "")
            yield f"{seen} {names}{value} -d {_quoted(option.help)}"


def _with_choices(all_commands: list[Command]) -> Iterator[tuple[Command, Option]]:
    for command in all_commands:
        yield from ((command, option) for option in command.options if option.choices)


def _words(command: Command) -> list[str]:
    return [*command.words, *(name for option in command.options for name in option.names)]


def _quoted(text: str) -> str:
    """Quote a text for fish, in whose quotes only these two characters need an escape."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
