"""``mapdev devices``."""

import inspect

import click


@click.command()
def command() -> None:
    """List the built-in devices.

    \b
    Example:  mapdev devices
              mapdev serve ram:64M --mount ./dev
    """
    from mapdev.devices import BUILTIN, builtin

    width = max(map(len, BUILTIN))
    for name in sorted(BUILTIN):
        click.echo(f"{name:{width}}  {(inspect.getdoc(builtin(name)) or '').splitlines()[0]}")
