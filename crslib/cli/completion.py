"""What the shell offers after `-p`, by click's completion."""

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class
from pydantic.fields import FieldInfo

from crslib.cli.parameters import choices
from crslib.config import BUILT_IN, ROOT, RunParameters, marked

_SHIPPED = {  # where the files lie that come with the project
    "styles": "data/human/*.parquet",
    "user_adapter": "data/adapters/*.gguf",
    "recommender_adapter": "data/adapters/*.gguf",
    "user_prompt": "data/prompts/*.md",
    "recommender_prompt": "data/prompts/*.md",
    "script_prompt": "data/prompts/*.md",
}


def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What the shell offers after `-p`: names, then values: choices, true and false, the files of the project."""
    name, equals, value = incomplete.partition("=")
    fields = RunParameters.model_fields
    if not equals:
        given = {str(each).partition("=")[0] for each in ctx.params.get(param.name or "") or ()}
        return [
            CompletionItem(f"{known}=", help=field.description)
            for known, field in fields.items()
            if known.startswith(name) and known not in given
        ]
    if name not in fields:
        return []
    known = choices(fields[name]) or _values(name, fields[name])
    return [CompletionItem(f"{name}={choice}") for choice in known if choice.startswith(value) and choice]


def _values(name: str, field: FieldInfo) -> list[str]:
    shipped = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(_SHIPPED[name])) if name in _SHIPPED else []
    words = [BUILT_IN, "agenda"] if name.endswith("_model") else []
    domains = sorted(path.stem for path in ROOT.glob("data/domains/[a-z]*.yaml")) if name == "domain" else []
    default = [str(field.default)] if marked(field, "path", False) or field.annotation is not str else []
    return list(dict.fromkeys([*default, *words, *domains, *shipped]))


@add_completion_class
class _Bash(BashComplete):
    """Bash takes the `=` of `name=value` for a word of its own, and completes the words after it."""

    # No space after `name=`, so that the value can be typed.
    source_template = BashComplete.source_template.replace(
        "COMPREPLY+=($value)", "COMPREPLY+=($value); [[ $value == *= ]] && compopt -o nospace"
    )

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        if incomplete == "=":
            return args[:-1], f"{args[-1]}="
        if len(args) > 1 and args[-1] == "=":
            return args[:-2], f"{args[-2]}={incomplete}"
        return args, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        _, equals, value = str(item.value).partition("=")
        return f"{item.type},{value if equals and value else item.value}"
