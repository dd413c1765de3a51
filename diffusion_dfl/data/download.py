"""Find or download one pinned file, and hand it out only if its sha256 is the expected one.

The order is fixed and nothing falls back silently: a folder named by the user (`data.root`, then
the environment variable DIFFUSION_DFL_DATA) is the only place looked at when given; otherwise the
project's own folder; otherwise the network.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import secrets
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from diffusion_dfl.data.dataset import DataError

ENVIRONMENT_VARIABLE = "DIFFUSION_DFL_DATA"
TIMEOUT_SECONDS = 30.0
_CHUNK_BYTES = 1 << 16


def fetch(
    name: str,
    url: str,
    sha256: str,
    directory: str | Path,
    root: str | Path | None = None,
) -> Path:
    """Return the path of a file whose content has the given sha256.

    Args:
        name: file name, the same in every folder; with the subfolder it is in, if any.
        url: full address of the file, used only when nothing is on disk.
        sha256: expected digest, 64 hexadecimal digits.
        directory: the project's own download folder; made when needed.
        root: the user's folder (`data.root`). None or "" means not given, as does an empty
            environment variable. A file in it is never moved or changed.

    Raises:
        DataError: one message with the key, the value and the mend. A wrong file in `directory`
            or off the network is moved to `<name>.corrupt-<8 digits of its sha256>` beforehand.
    """
    if root is not None and str(root) != "":
        return _from_root(name, sha256, Path(root), f"data.root={root}")
    variable = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if variable:
        return _from_root(name, sha256, Path(variable), f"{ENVIRONMENT_VARIABLE}={variable}")
    return fetch_own(name, url, sha256, directory)


def fetch_own(name: str, url: str, sha256: str, directory: str | Path) -> Path:
    """`fetch` without the user's folder: the file in `directory`, else a download into it.

    Raises DataError as `fetch` does.
    """
    own = Path(directory) / name
    try:
        present = own.exists()
        found = _sha256(own) if present else ""
    except FileNotFoundError:
        present, found = False, ""  # another process has just set a wrong file aside
    except OSError as error:
        raise DataError(
            f"data.directory={directory}: {name} cannot be read ({_reason(error)}). "
            "Mend its permissions, or set data.root=FOLDER to a folder that has the files."
        ) from error
    if not present:
        return _download(name, url, sha256, Path(directory))
    if found != sha256:
        return _refuse_own(own, sha256, found)
    return own


def _from_root(name: str, sha256: str, root: Path, setting: str) -> Path:
    """The file in the user's folder, or a DataError that starts with his own setting."""
    mend = (
        "Point data.root (or the environment variable DIFFUSION_DFL_DATA) at a folder that has it, "
        "or leave both unset and run `diffusion-dfl fetch`, "
        "or use data=simulated."
    )
    path = root.expanduser() / name
    try:
        if not root.expanduser().is_dir():
            raise DataError(f"{setting}: there is no such folder (looked for {name}). {mend}")
        if not path.exists():
            raise DataError(f"{setting}: the folder has no file {name}. {mend}")
        found = _sha256(path)
    except OSError as error:
        raise DataError(f"{setting}: {name} cannot be read ({_reason(error)}). {mend}") from error
    if found != sha256:
        raise DataError(
            f"{setting}: {name} is not the pinned file: expected sha256 {sha256}, found {found}. "
            f"It was left as it is. {mend}"
        )
    return path


def _refuse_own(path: Path, sha256: str, found: str) -> Path:
    """Move a wrong file of our own folder aside and raise DataError.

    Another process may have put the right file in place between our reading and our moving; then
    what we moved is right, goes back, and its path is returned.
    """
    aside = path.with_name(f"{path.name}.corrupt-{found[:8]}")
    try:
        os.replace(path, aside)
        if _sha256(aside) == sha256:
            os.replace(aside, path)
            return path
    except FileNotFoundError:
        pass  # another process has moved the same wrong file to the same name
    except OSError as error:
        raise DataError(
            f"data.directory={path.parent}: {path.name} has sha256 {found}, expected {sha256}, and "
            f"cannot be moved aside ({_reason(error)}). Delete it and run "
            "`diffusion-dfl fetch`."
        ) from error
    raise DataError(
        f"data.directory={path.parent}: {path.name} is damaged: expected sha256 {sha256}, found "
        f"{found}. It was moved to {aside.name}. Run `diffusion-dfl fetch` to download it "
        "again, or set data.root=FOLDER."
    )


def _download(name: str, url: str, sha256: str, directory: Path) -> Path:
    """Stream `url` into `directory`/`name`; the name appears only once the sha256 is right.

    Each process writes a .part file of its own, so two at once do not disturb each other: the
    last rename wins, with the same bytes.
    """
    part = directory / f"{name}.{secrets.token_hex(6)}.part"
    try:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        found = _stream(url, part)
        if found == sha256:
            os.replace(part, directory / name)
            return directory / name
        aside = directory / f"{name}.corrupt-{found[:8]}"
        os.replace(part, aside)
    except OSError as error:
        raise DataError(
            f"data.directory={directory}: {name} cannot be written ({_reason(error)}). "
            "Set data.directory=FOLDER to a folder you may write to."
        ) from error
    finally:
        _remove(part)
    raise DataError(
        f"data.url={without_secrets(url)}: this is not the pinned file: expected sha256 {sha256}, found {found}. "
        f"The download was kept as {aside.name} and is not used. Check data.url, or set "
        "data.root=FOLDER to a folder with the right file."
    )


def _stream(url: str, part: Path) -> str:
    """Write the bytes of `url` to the new file `part`; return their sha256.

    Raises DataError for the network's failures and OSError for the disk's.
    """
    mend = (
        "Check the connection and run `diffusion-dfl fetch`, set data.root=FOLDER (or "
        f"{ENVIRONMENT_VARIABLE}) to a folder that has the file, or use data=simulated."
    )
    digest = hashlib.sha256()
    received = 0
    with open(part, "xb") as file:
        try:
            response = urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            raise DataError(
                f"data.url={without_secrets(url)}: the server answered {error.code} {error.reason}. {mend}"
            ) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise DataError(
                f"data.url={without_secrets(url)}: it cannot be reached "
                f"({_reason(error).replace(url, without_secrets(url))}). {mend}"
            ) from None  # It may quote the address.
        with response:
            announced = response.headers.get("Content-Length")
            while True:
                try:
                    chunk = response.read(_CHUNK_BYTES)
                except (OSError, http.client.HTTPException) as error:
                    raise DataError(
                        f"data.url={without_secrets(url)}: the connection broke after {received} bytes "
                        f"({_reason(error)}). {mend}"
                    ) from error
                if not chunk:
                    break
                received += len(chunk)
                digest.update(chunk)
                file.write(chunk)
    # A short answer is a broken connection, not a damaged source: no reason to keep it.
    if announced is not None and announced.isdigit() and received < int(announced):
        raise DataError(
            f"data.url={without_secrets(url)}: the connection broke after {received} of {announced} bytes. {mend}"
        )
    return digest.hexdigest()


def without_secrets(url: str) -> str:
    """An address without its user, password and query."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:  # A port that is no number, or the end of a password.
        return f"{url.partition('://')[0]}://..."
    return urlunsplit((parts.scheme, host + port, parts.path, "", ""))


def _remove(part: Path) -> None:
    """Delete what is left of a download; a folder that refuses must not hide the first error."""
    try:
        part.unlink(missing_ok=True)
    except OSError:
        return


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(error: BaseException) -> str:
    """A short cause without file paths: OSError's own text would repeat them."""
    if isinstance(error, urllib.error.URLError):
        inner = error.reason
        return _reason(inner) if isinstance(inner, BaseException) else str(inner)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
