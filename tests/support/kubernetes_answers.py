"""What an API server answers besides objects: statuses, bookmarks, lines of a watch."""

import json

from starlette.responses import JSONResponse, Response

from tests.support.kubernetes_store import Object

KINDS = {"services": ("v1", "Service"), "endpointslices": ("discovery.k8s.io/v1", "EndpointSlice")}


def status_of(code: int, message: str) -> Object:
    reasons = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 410: "Expired"}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reasons.get(code, "InternalError"),
        "code": code,
    }


def failure(code: int, message: str) -> Response:
    return JSONResponse(status_of(code, message), status_code=code)


def bookmark(plural: str, version: int) -> Object:
    api_version, kind = KINDS[plural]
    metadata = {"resourceVersion": str(version), "creationTimestamp": None}
    item: Object = {"kind": kind, "apiVersion": api_version, "metadata": metadata}
    if plural == "endpointslices":
        item |= {"addressType": "", "endpoints": None, "ports": None}
    return {"type": "BOOKMARK", "object": item}


def version_of(event: Object) -> int:
    return int(event["object"]["metadata"].get("resourceVersion", 0))


def line_of(event: Object) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"
