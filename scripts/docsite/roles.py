"""A griffe extension: cross-references of docstrings, written as roles, become links of the site.

``:class:`~diffusion_dfl.layers.DecisionLayer` `` links to the documented object where there is one
and is plain code elsewhere.
"""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`(~?)([\w.]+)`")


class Roles(griffe.Extension):
    """Rewrites the roles of every docstring once its package is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self._visit(pkg)

    def _visit(self, where: griffe.Object) -> None:
        if where.docstring is not None:
            where.docstring.value = _ROLE.sub(lambda m: _link(where, m), where.docstring.value)
        for member in where.members.values():
            if not member.is_alias and isinstance(member, griffe.Object):
                self._visit(member)


def _link(where: griffe.Object, match: re.Match[str]) -> str:
    short, name = match.groups()
    shown = name.rsplit(".", 1)[-1] if short else name
    target = name
    if "." not in name:
        # A bare name is one of the class or the module the docstring belongs to.
        try:
            target = where.resolve(name)
        except griffe.NameResolutionError:
            parent = where if where.is_class else where.parent
            target = f"{parent.path}.{name}" if parent is not None else name
    return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'
