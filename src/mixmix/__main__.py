"""``python -m mixmix`` is the command ``mixmix``."""

from mixmix.cli.main import run

if __name__ == "__main__":
    run()
