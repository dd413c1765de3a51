"""The documentation as a site: ``make docs``, or ``make docs VERSION=0.2.0`` beside older versions.

python scripts/make_docs.py                    site/index.html
python scripts/make_docs.py --version 0.2.0    site/0.2.0/, site/versions.json, site/latest/
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from docsite import links, versions

from diffusion_dfl.files import write_text
from diffusion_dfl.suite.cli import REFUSALS, explain, fail

ROOT = Path(__file__).resolve().parents[1]
#: Where pages and configuration are brought together and built, which must be one folder.
STAGE = ROOT / "build" / "site"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", help="MAJOR.MINOR.PATCH; none for a site without versions")
    parser.add_argument("--site", type=Path, default=ROOT / "site", help="folder of the site")
    arguments = parser.parse_args()
    site, version = arguments.site.resolve(), arguments.version
    try:
        place = site / versions.check(version) if version else site
        links.stage(ROOT, STAGE / "docs")
        write_text(STAGE / "mkdocs.yml", configuration(versioned=bool(version)))
    except REFUSALS as error:
        return fail(explain(error))
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=STAGE, check=False)
    if done.returncode:
        return done.returncode
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(STAGE / "site", place)
    if version:
        print(f"versions: {', '.join(versions.index(site))}")
    print(f"written to {place / 'index.html'}")
    print(f"search wants a server: python -m http.server --directory {site.name}")
    return 0


def configuration(versioned: bool) -> str:
    """mkdocs.yml for the staged pages, with the paths of the source."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    changes = {
        "paths: [.]": f"paths: [{str(ROOT)!r}]",
        "- scripts/docsite/": f"- {ROOT}/scripts/docsite/",
    }
    if versioned:
        changes["\nextra:\n"] = "\nextra:\n  version:\n    provider: mike\n"
    for before, after in changes.items():
        if before not in text:
            raise ValueError(f"mkdocs.yml has no {before!r}")
        text = text.replace(before, after)
    return text


if __name__ == "__main__":
    sys.exit(main())
