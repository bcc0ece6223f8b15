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
    from mapdev.devices import BUILTIN

    width = max(map(len, BUILTIN))
    for name, cls in sorted(BUILTIN.items()):
        click.echo(f"{name:{width}}  {(inspect.getdoc(cls) or '').splitlines()[0]}")
