"""completion bash|zsh|fish: scripts made from the parser itself, so they can't fall behind it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from facedetctl.commands import Call, Subparsers, add_command
from facedetctl.exits import Exit

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True, slots=True)
class Option:
    names: tuple[str, ...]
    help: str
    takes_value: bool
    is_file: bool
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A command: its path from the top, what may follow it, its options."""

    path: tuple[str, ...]
    words: tuple[tuple[str, str], ...]  # (sub-command or choice, help)
    options: tuple[Option, ...]


def register(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "completion", completion, "print a completion script for a shell")
    parser.add_argument("shell", choices=SHELLS)


def completion(call: Call) -> Exit:
    from facedetctl.main import make_parser

    nodes = list(walk(make_parser()))
    scripts = {"bash": bash, "zsh": zsh, "fish": fish}
    call.out.out.write(scripts[call.args.shell](nodes))
    return Exit.OK


def walk(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Node]:
    words: list[tuple[str, str]] = []
    options: list[Option] = []
    below: list[tuple[str, argparse.ArgumentParser]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            words += [(name, helps.get(name, "")) for name in action.choices]
            below += list(action.choices.items())
        elif action.help == argparse.SUPPRESS:
            continue
        elif action.option_strings:
            takes_value = action.nargs != 0
            options.append(
                Option(
                    tuple(action.option_strings),
                    action.help or "",
                    takes_value,
                    takes_value and str(action.metavar) in ("FILE", "DIR", "PATH"),
                    tuple(str(choice) for choice in action.choices or ()),
                )
            )
        elif action.choices:
            words += [(str(choice), "") for choice in action.choices]
    yield Node(path, tuple(words), tuple(options))
    for name, inner in below:
        yield from walk(inner, (*path, name))


def _words(node: Node) -> str:
    return " ".join([*(word for word, _ in node.words), *(name for option in node.options for name in option.names)])


def bash(nodes: list[Node]) -> str:
    """The command so far decides what may follow; file options and everything unknown complete to files."""
    cases = "\n".join(f'    "{" ".join(node.path)}") words="{_words(node)}" ;;' for node in nodes)
    paths = " ".join(f'"{" ".join(node.path)}"' for node in nodes if node.path)
    # An option's values depend on the command too: two may have one of the same name
    valued = [
        (f'"{" ".join(node.path)} {name}"', option.choices)
        for node in nodes
        for option in node.options
        for name in (option.names if option.takes_value else ())
    ]
    choice_cases = "\n".join(
        f'    {case}) COMPREPLY=($(compgen -W "{" ".join(choices)}" -- "$cur")); return ;;'
        for case, choices in valued
        if choices
    )
    value_cases = "|".join(case for case, choices in valued if not choices)
    return f"""\
# bash completion for facedetctl; made by: facedetctl completion bash
_facedetctl() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" path="" try known words="" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    try="${{path:+$path }}${{COMP_WORDS[i]}}"
    for known in {paths}; do
      [[ "$known" == "$try" ]] && path="$try"
    done
  done
  case "$path $prev" in
{choice_cases}
    {value_cases}) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
  esac
  case "$path" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  [[ ${{#COMPREPLY[@]}} -eq 0 && "$cur" != -* ]] && mapfile -t COMPREPLY < <(compgen -f -- "$cur")
  return 0
}}
complete -o filenames -F _facedetctl facedetctl
"""


def zsh(nodes: list[Node]) -> str:
    cases = []
    for node in nodes:
        entries = [(word, text) for word, text in node.words]
        entries += [(name, option.help) for option in node.options for name in option.names]
        described = " ".join(shlex.quote(f"{word.replace(':', chr(92) + ':')}:{text}") for word, text in entries)
        cases.append(f"    {shlex.quote(' '.join(node.path))}) entries=({described}) ;;")
    choices = {
        name: " ".join(option.choices)
        for node in nodes
        for option in node.options
        if option.choices
        for name in option.names
    }
    values = {
        name
        for node in nodes
        for option in node.options
        if option.takes_value and not option.choices
        for name in option.names
    }
    choice_cases = "\n".join(f"    {name}) compadd {words}; return ;;" for name, words in sorted(choices.items()))
    paths = " ".join(shlex.quote(" ".join(node.path)) for node in nodes if node.path)
    body = "\n".join(cases)
    return f"""\
#compdef facedetctl
# zsh completion for facedetctl; made by: facedetctl completion zsh
_facedetctl() {{
  local -a entries known
  local place="" try i
  known=({paths})
  case "${{words[CURRENT-1]}}" in
{choice_cases}
    {"|".join(sorted(values))}) _files; return ;;
  esac
  for ((i = 2; i < CURRENT; i++)); do
    try="${{place:+$place }}${{words[i]}}"
    (( ${{known[(Ie)$try]}} )) && place="$try"
  done
  case "$place" in
{body}
  esac
  _describe -V facedetctl entries
  [[ "${{words[CURRENT]}}" == -* ]] || _files
}}
if [[ "${{funcstack[1]}}" == _facedetctl ]]; then _facedetctl "$@"; else compdef _facedetctl facedetctl; fi
"""


def fish(nodes: list[Node]) -> str:
    lines = ["# fish completion for facedetctl; made by: facedetctl completion fish", "complete -c facedetctl -f"]
    tops = [node.path[0] for node in nodes if len(node.path) == 1]
    for node in nodes:
        condition = _fish_condition(node, nodes, tops)
        for word, text in node.words:
            lines.append(f"complete -c facedetctl -n {condition} -a {shlex.quote(word)} -d {shlex.quote(text)}")
        here = f"-n {_fish_condition(node, nodes, tops, words=False)} " if node.path else ""
        for option in node.options:
            flags = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
            value = (" -r -F" if option.is_file else " -x") if option.takes_value else ""
            value += f" -a {shlex.quote(' '.join(option.choices))}" if option.choices else ""
            lines.append(f"complete -c facedetctl {here}{flags}{value} -d {shlex.quote(option.help)}")
    return "\n".join(lines) + "\n"


def _fish_condition(node: Node, nodes: list[Node], tops: list[str], words: bool = True) -> str:
    if not node.path:
        return shlex.quote("__fish_use_subcommand")
    seen = "; and ".join(f"__fish_seen_subcommand_from {part}" for part in node.path)
    if words and node.words and any(other.path[:-1] == node.path for other in nodes):
        seen += "; and not __fish_seen_subcommand_from " + " ".join(word for word, _ in node.words)
    return shlex.quote(seen)
