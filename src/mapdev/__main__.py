"""``python -m mapdev``."""

from mapdev.cli import main

if __name__ == "__main__":
    main(prog_name="mapdev")
