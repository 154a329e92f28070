"""Names of indices and aliases on the command line: checked where they come in, before anything is sent.

Every option and argument that takes one is made with these callbacks, so that a bad name is refused by the
name of its option, before the server is asked which engine it is.
"""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Alias", "Index", "NewIndex", "checked", "checked_new"]


def checked(param: typer.CallbackParam, value: str | None) -> str | None:
    """The name of an index or alias that is there, for ``callback=``."""
    return _checked(param, value, new=False)


def checked_new(param: typer.CallbackParam, value: str | None) -> str | None:
    """The name of an index or alias that is about to be made, for ``callback=``."""
    return _checked(param, value, new=True)


def _checked(param: typer.CallbackParam, value: str | None, *, new: bool) -> str | None:
    if value is None:
        return None
    # Here, since help must not wait for the package of the compilers.
    from esembed.dialect.names import check_name
    from esembed.errors import AliasError

    try:
        return check_name(value, new=new)
    except AliasError as error:
        option = next((one for one in param.opts if one.startswith("--")), param.metavar or param.name)
        raise AliasError(f"{option}: {error.message}", alias=error.alias) from None


Index = Annotated[str, typer.Argument(metavar="NAME", help="The index (or alias).", callback=checked)]
NewIndex = Annotated[str, typer.Argument(metavar="NAME", help="The new index.", callback=checked_new)]
Alias = Annotated[
    str,
    typer.Argument(metavar="ALIAS", help="The alias that searchers use.", callback=checked),
]
