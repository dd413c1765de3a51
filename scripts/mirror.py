"""``diffusion-dfl mirror`` in a clone."""

import sys

from diffusion_dfl.suite.commands import run

if __name__ == "__main__":
    sys.exit(run("mirror"))
