"""The shop's pages and images, with the headers that browsers and caches live on.

ETag and Last-Modified are the same in every instance and after every restart, so that a client's
copy stays good whoever is asked next.
"""

import hashlib
import random
import re
import struct
import zlib
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime

from common import healthz, serve_http
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

#: Width and height of the square pictures; their pixels hardly compress, so size is 3 bytes each.
WIDTHS = {"icon": 18, "thumb": 58, "card": 130, "banner": 200, "poster": 258}
MODIFIED_S = 1_767_225_600  # the first second of 2026: a file's age must not be a process's age
LOGO = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 8">'
    '<path d="M0 6h24M4 6V2m4 4V2m4 4V2m4 4V2m4 4V2" stroke="teal" fill="none"/>{}</svg>\n'
)
ONE_RANGE = re.compile(r"bytes=(\d{0,12})-(\d{0,12})")


@dataclass(frozen=True)
class File:
    """A file in memory, with what is said of it."""

    body: bytes
    media_type: str
    cache_control: str = "public, max-age=86400"
    etag: str = field(init=False)

    def __post_init__(self) -> None:
        tag = hashlib.sha256(self.body).hexdigest()[:16]
        object.__setattr__(self, "etag", f'"{tag}"')


def _png(name: str, width: int) -> bytes:
    """Draw a square of noise, the same for the same name."""
    pixels = random.Random(name)
    rows = b"".join(b"\0" + pixels.randbytes(3 * width) for _ in range(width))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + _checksum(kind + data)

    head = struct.pack("!IIBBBBB", width, width, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows, 1))
        + chunk(b"IEND", b"")
    )


def _checksum(data: bytes) -> bytes:
    return struct.pack("!I", zlib.crc32(data))


def _files() -> dict[str, File]:
    files = {f"{name}.png": File(_png(name, width), "image/png") for name, width in WIDTHS.items()}
    bars = "".join(f'<rect x="{n % 24}" y="{n % 8}" width=".2" height=".2"/>' for n in range(200))
    files["logo.svg"] = File(LOGO.format("").encode(), "image/svg+xml")
    files["pattern.svg"] = File(LOGO.format(bars).encode(), "image/svg+xml")
    return files


FILES = _files()
HOME = File(
    (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Shop</title><h1>Shop</h1>"
        + "".join(f'<img src="/images/{name}" alt="{name}" width=80>' for name in FILES)
        + '<p><a href="/api/items">items</a> <a href="/chat/">chat</a></p></html>\n'
    ).encode(),
    "text/html; charset=utf-8",
    "no-cache",
)


async def _image(request: Request) -> Response:
    file = FILES.get(request.path_params["name"])
    return PlainTextResponse("no such image\n", 404) if file is None else _answer(request, file)


async def _home(request: Request) -> Response:
    return _answer(request, HOME)


def _answer(request: Request, file: File) -> Response:
    headers = {
        "etag": file.etag,
        "last-modified": formatdate(MODIFIED_S, usegmt=True),
        "cache-control": file.cache_control,
        "accept-ranges": "bytes",
    }
    if _is_current(request, file):
        return Response(status_code=304, headers=headers)
    wanted = ONE_RANGE.fullmatch(request.headers.get("range", ""))
    if wanted is None or not any(wanted.groups()) or not _range_holds(request, file):
        return Response(file.body, headers=headers, media_type=file.media_type)
    first, last = _bounds(wanted[1], wanted[2], len(file.body))
    if first > last:
        headers["content-range"] = f"bytes */{len(file.body)}"
        return Response(status_code=416, headers=headers)
    headers["content-range"] = f"bytes {first}-{last}/{len(file.body)}"
    return Response(file.body[first : last + 1], 206, headers=headers, media_type=file.media_type)


def _is_current(request: Request, file: File) -> bool:
    """Say whether the client's copy is good (RFC 9110, 13.1.2 and 13.1.3)."""
    if (tags := request.headers.get("if-none-match")) is not None:
        known = {tag.strip().removeprefix("W/") for tag in tags.split(",")}
        return not known.isdisjoint({file.etag, "*"})
    try:
        since = parsedate_to_datetime(request.headers.get("if-modified-since", ""))
        return since.timestamp() >= MODIFIED_S
    except ValueError:
        return False


def _range_holds(request: Request, file: File) -> bool:
    return request.headers.get("if-range", file.etag) == file.etag


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """Return the first and the last byte that are meant; first > last = none of the file's."""
    if not first:  # the last so many bytes
        return (max(size - int(last), 0), size - 1) if int(last) else (1, 0)
    return int(first), min(int(last), size - 1) if last else size - 1


app = Starlette(
    routes=[Route("/healthz", healthz), Route("/", _home), Route("/images/{name}", _image)]
)

if __name__ == "__main__":
    serve_http(app)
