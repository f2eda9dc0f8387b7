"""The registry of everything that can be wrong with a configuration, one code each."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of mistake: its stable id, a title, what it means and what to do."""

    id: str
    title: str
    meaning: str
    remedy: str

    def __str__(self) -> str:
        return self.id

    @property
    def first_aid(self) -> str:
        """Return the remedy's first sentence as a hint, for findings without one of their own."""
        sentence = self.remedy.split(". ")[0].rstrip(".")
        return sentence[:1].lower() + sentence[1:]


REGISTRY: dict[str, Code] = {}


def _code(number: str, title: str, meaning: str, remedy: str) -> Code:
    code = Code(f"WG-C{number}", title, meaning, remedy)
    if code.id in REGISTRY:
        raise AssertionError(code.id)
    REGISTRY[code.id] = code
    return code


# Reading the files
FILE = _code(
    "001",
    "file cannot be read",
    "The configuration, or a file that `include` names, is missing, is not a regular file, is not "
    "UTF-8, or this user may not read it.",
    "Check the path (it is relative to the file that names it) and the permissions.",
)
SYNTAX = _code(
    "002",
    "not valid YAML",
    "The YAML parser could not go on at this place.",
    "Look at the line and at the one before it: a missing quote, bracket, colon or space.",
)
TAB = _code(
    "003",
    "tab character",
    "YAML does not allow tabs where it counts indentation.",
    "Indent with spaces.",
)
DUPLICATE_KEY = _code(
    "004",
    "key written twice",
    "The same mapping has the same key twice. Most YAML parsers silently keep one of them.",
    "Remove or rename one.",
)
UNSUPPORTED_YAML = _code(
    "005",
    "YAML feature not supported",
    "Custom tags, keys that are not scalars, several documents in one file, unknown aliases and "
    "merges of something that is not a mapping are refused.",
    "Write the value out in plain YAML.",
)
TOO_LARGE = _code(
    "006",
    "configuration too large",
    "The file, its nesting, or what its aliases expand to is beyond what a configuration needs. "
    "The bound stops alias bombs.",
    "Split the file with `include`, or use fewer aliases.",
)
EMPTY = _code(
    "007",
    "nothing to run",
    "The file is empty, or the configuration has no listener: there is nothing to accept on.",
    "Add a listener, for example `listeners: {web: {bind: '0.0.0.0:80'}}`.",
)
ENVIRONMENT = _code(
    "008",
    "environment variable not set",
    "`${NAME}` names a variable that is not set (or not valid UTF-8).",
    "Set it, or write a default: `${NAME:-value}`.",
)
INTERPOLATION = _code(
    "009",
    "malformed ${…}",
    "What stands between the braces is not a variable's name with an optional `:-default`.",
    "Write `${NAME}` or `${NAME:-default}`; a literal `${` is written `$${`.",
)
INCLUDE_LOOP = _code(
    "010",
    "include loop",
    "A file includes itself, directly or through others.",
    "Put the included files into a directory of their own, such as `conf.d/`.",
)
DUPLICATE_NAME = _code(
    "011",
    "defined in two files",
    "A listener, a pool or a section is defined in more than one of the included files.",
    "Keep one of them.",
)

# Shape
UNKNOWN_KEY = _code(
    "012",
    "unknown key",
    "This release has no such key at this place. Nothing is ignored silently.",
    "Take the key that the hint names, or see config-reference.md.",
)
MISSING_KEY = _code(
    "013",
    "key missing",
    "A key without a default is not there.",
    "Add it.",
)
TYPE = _code(
    "014",
    "wrong type",
    "The value has another type than the key needs. `off`, `no` and `on` are strings, as in "
    "YAML 1.2, and a key with nothing behind it is refused, never guessed.",
    'Quote what is a string (`"8080"`), and do not quote numbers, `true` and `false`.',
)
CHOICE = _code(
    "015",
    "not one of the choices",
    "The key takes one of a few words, and this is none of them.",
    "Take one of those listed.",
)
RANGE = _code(
    "016",
    "out of range",
    "A number, or the length of a list, is outside its bounds.",
    "Take a value within them.",
)

# Scalars
DURATION = _code(
    "020",
    "bad duration",
    "A duration is a number and a unit: `150ms`, `2s`, `1m`, `1h`. `0` means no limit, where that "
    "is allowed.",
    "Add the unit.",
)
SIZE = _code(
    "021",
    "bad size",
    "A size is a number of bytes, or a number and one of `B KiB MiB GiB TiB`. `0` means no limit, "
    "where that is allowed.",
    "Use the binary units: `10MiB`.",
)
RATE = _code(
    "022",
    "bad rate",
    "A rate is a whole number per second, minute or hour: `100/s`, `60/m`, `1000/h`.",
    "Write it in this form; half a request per second is `30/m`.",
)
NETWORK = _code(
    "023",
    "bad network",
    "Neither an IP address nor a network in CIDR form, or a network with bits set behind its mask.",
    "Write it like `10.0.0.0/8` or `2001:db8::/32`.",
)
BIND = _code(
    "024",
    "bad listen address",
    "A listener needs a literal IP address and a port, or a Unix socket's absolute path.",
    'Write `"0.0.0.0:80"`, `"[::]:80"` or `"unix:/run/weirgate/web.sock"`.',
)
ENDPOINT = _code(
    "025",
    "bad endpoint address",
    "An endpoint is `host:port`, where host is a name or an IP address (IPv6 in brackets).",
    "Remove `http://` and any path, and add the port.",
)
NAME = _code(
    "026",
    "bad name",
    "Names of listeners, pools and routes appear in logs, metrics and socket keys.",
    "Use letters, digits, `_`, `-` and `.`, at most 64, beginning with a letter or digit.",
)
SECRET = _code(
    "027",
    "bad secret",
    "The secret has the wrong form, or its file cannot be read. Its value is never shown.",
    "Make one with `openssl rand -hex 32`; put it in a file and write `file:/path`.",
)
PATH = _code(
    "028",
    "bad file path",
    "The path cannot be used at this place.",
    "Follow what the message wants.",
)

# HTTP
HOST = _code(
    "030",
    "bad host pattern",
    "A host is matched without its port, in lower case. A name in Unicode stands for its ASCII "
    "form (A-labels, `xn--…`), which is what clients send; IDNA has one for words, and none for "
    "symbols. A wildcard is `*.` in front of a name and stands for one or more labels.",
    "Write `shop.example` or `*.shop.example`.",
)
PATTERN = _code(
    "031",
    "bad path pattern",
    "`/x` is exactly that path, `/x/*` is `/x` and all below it. Everything else is a regex.",
    "Write one of these, or `{regex: ...}`.",
)
METHOD = _code(
    "032",
    "bad method",
    "Methods are case-sensitive, and all that are in use are upper case.",
    "Write `GET`, `POST` and so on.",
)
HEADER_NAME = _code(
    "033",
    "bad header, cookie or query name",
    "The name has characters that HTTP does not allow there, or stands twice in different case.",
    "Use letters, digits and `-`.",
)
HEADER_VALUE = _code(
    "034",
    "bad header value",
    "A control character (such as a line break) in a header's value would split the message.",
    "Remove it.",
)
HEADER_OWNED = _code(
    "035",
    "header belongs to the proxy",
    "Headers that frame a message or manage one connection (`content-length`, "
    "`transfer-encoding`, `connection`, …) are written by Weirgate from what it really sends.",
    "Remove it from the filter.",
)
STATUS = _code(
    "036",
    "bad status",
    "Not a status that can be used at this place.",
    "Answers take 200-599, redirects 301, 302, 303, 307 or 308, checks 100-599 or a range.",
)
REDIRECT = _code(
    "037",
    "bad redirect target",
    "The target is an absolute URL or a path, with `{scheme}`, `{host}`, `{path}` and `{query}` "
    "as the only placeholders.",
    "Write for example `https://{host}{path}{query}`.",
)
VALUE_RULE = _code(
    "038",
    "bad value condition",
    "A condition on a header, a query or a cookie has exactly one of `exact`, `prefix`, `regex` "
    "and `present`.",
    "Write a string for `exact`, `true` for `present`, or one of the four keys.",
)
GRPC = _code(
    "062",
    "bad gRPC condition",
    "`grpc` in a match names methods, which are paths (`/shop.v1.Cart/Add`) that are asked with "
    "POST and a content type of gRPC. So it says all that `path` and `method` could.",
    "Write `shop.v1.Cart` for a whole service or `shop.v1.Cart/Add` for one method. Leave `path`, "
    "`method` and the header `content-type` out beside it.",
)
BODY = _code(
    "039",
    "this status has no body",
    "HTTP does not allow a body with 204, 205 and 304.",
    "Remove the body or take another status.",
)

# What belongs together
UNKNOWN_POOL = _code(
    "040",
    "unknown pool",
    "No pool has this name.",
    "Take the name that the hint gives, or define the pool.",
)
UNKNOWN_LISTENER = _code(
    "098",
    "unknown listener",
    "No listener of this name takes requests: there is none, or it relays without reading them, so "
    "the route is never taken.",
    "Take the name that the hint gives, or define the listener.",
)
ACTION = _code(
    "041",
    "not exactly one action",
    "A route does one thing: `pool`, `respond` or `redirect`.",
    "Keep one of the three.",
)
PROTOCOL_KEY = _code(
    "042",
    "key does not fit the protocol",
    "The edge relays a `tcp` listener to its pool without looking inside, and a `tls` listener to "
    "pools by server name; an `http` listener goes through a gateway and the routes. A key of one "
    "has no meaning for the others.",
    "Remove the key or change `protocol`.",
)
BIND_TAKEN = _code(
    "043",
    "address used twice",
    "Two listeners (or the admin API) want the same address and port, or one is covered by the "
    "other's wildcard address.",
    "Change one of them.",
)
DUPLICATE_ROUTE = _code(
    "044",
    "route name used twice",
    "Names of routes are labels in logs and metrics, so each is unique. A route without a name is "
    "called `route-N`, counted from 1.",
    "Rename one.",
)
REWRITE = _code(
    "045",
    "rewrite without a prefix",
    "`rewrite_prefix` replaces what a prefix path matched, so each path of the route must be one.",
    'End each path of the route with `/*`; `path: "/*"` is every path.',
)
FILTER = _code(
    "046",
    "filter cannot be used like this",
    "A filter is a mapping with one key; `sticky` and `rewrite_prefix` stand at most once in a "
    "route, and `sticky` needs a pool to stick to.",
    "Write one `- name: {...}` for each filter.",
)
DUPLICATE_ENDPOINT = _code(
    "047",
    "endpoint listed twice",
    "An endpoint is known by its pool and address, so each address stands once in a pool.",
    "To send it more, give it a `weight`.",
)
HEALTH = _code(
    "048",
    "not exactly one kind of check",
    "A health check asks a `path` by HTTP, a service by gRPC (`grpc: shop.v1.Cart`), or only "
    "connects (`tcp: true`).",
    "Keep one of the three; `method` and `expect` need `path`, `host` and `headers` need `path` or "
    "`grpc`.",
)
POOL_TLS = _code(
    "049",
    "TLS pool behind a tcp or tls listener",
    "The edge relays bytes and does not start TLS, so the endpoints would be sent plain text.",
    "Use a pool without `tls` (the client's own TLS passes through), or an `http` listener.",
)

SERVER_NAMES = _code(
    "070",
    "server names do not fit together",
    "On a `tls` listener each server name goes to one place: a pool (`sni`) or the gateways "
    "(`terminate`), and what no name covers goes to `default`, or to the gateways "
    '(`terminate: "*"`), or is refused.',
    "Give each name one place.",
)
TERMINATE = _code(
    "071",
    "terminate and certificates belong together",
    "A `tls` listener terminates TLS for the names of `terminate` and for no others, with the "
    "certificates of `tls`. Certificates without such names would never be used, and names "
    "without certificates could not be served.",
    "Write both or none. To terminate all names, use an `http` listener with `tls`.",
)
POOL_PROXY = _code(
    "072",
    "PROXY header to a pool that cannot carry it",
    "A PROXY header introduces one client for a whole connection, but a gateway sends the requests "
    "of many clients over one connection. Whoever read the header would take all for the first. "
    "For the same reason it does not go with `tls`, which only routes can use. On the pool of a "
    "udp listener it stands in front of each datagram, for which only version 2 has a form.",
    "Read X-Forwarded-For or Forwarded there, or make a pool of its own for the listeners of "
    "layer 4; for udp, write `v2`.",
)

# Gateways on hosts of their own
ROLE = _code(
    "080",
    "file does not say what this role needs",
    "`weirgate edge` relays to the gateways of `gateway.nodes` what ends in a gateway; `weirgate "
    "gateway` takes it from the edges that are named there.",
    "Add `gateway.nodes`, or run both tiers on this host with `weirgate up`.",
)
NODES = _code(
    "081",
    "gateway nodes do not fit the rest",
    "`gateway.nodes` makes a pool named `gateways` on edges and a listener named `edges` on "
    "gateway nodes. A gateway node knows a client by the one address that the edge tells it, so "
    "what needs the address of a proxy in between as well cannot be told.",
    "Follow the message.",
)

# Labels
LABEL_DENIED = _code(
    "095",
    "label says what only the file may say",
    "Labels are a weaker authority than the file: whoever may start a container writes them. They "
    "make pools, routes and gateway nodes out of the object that carries them, and nothing else. "
    "They name no files and no secrets of Weirgate's host, they add no address but their own, and "
    "`${…}` is not replaced in them.",
    "Say it in the file. A pool of the file can be joined by `weirgate.pool=NAME`.",
)
LABEL_CONFLICT = _code(
    "096",
    "label contradicts what is said elsewhere",
    "Objects that carry the same pool or route must say the same of it. What the file says holds, "
    "and then what the older object says; the contradiction is left out.",
    "Make the labels equal, or choose another name.",
)
DISCOVERED = _code(
    "097",
    "discovered object cannot be used",
    "The object has no address that can be reached, or no port is known.",
    "Follow the message.",
)

# Files that are embedded
PEM_FILE = _code(
    "050",
    "file or directory of certificates cannot be read",
    "A certificate, a key, an authority, a revocation list, an OCSP response or a directory of "
    "them is missing, is not a regular file, is too long, or this user may not read it.",
    "Check the path (relative to the file that names it) and the permissions.",
)
PEM = _code(
    "051",
    "not the kind of file that is wanted",
    "The file has no PEM block of the wanted kind, the key is encrypted, or an OCSP response is "
    "not in DER form or not whole.",
    "Check that `cert` and `key` are not swapped; decrypt the key with `openssl pkey`.",
)
CERTIFICATES = _code(
    "052",
    "certificates do not fit together",
    "An entry of `certificates` is a `cert` with its `key`, or a `directory`. In a directory each "
    "`NAME.pem` (or `NAME.crt`) has its `NAME.key`, and there are 10,000 certificates at most. A "
    "certificate without a key is refused rather than left out: its clients would get another one.",
    "Put the key beside its certificate, under the same name.",
)
TLS_PROFILE = _code(
    "053",
    "TLS profile and version contradict each other",
    "`profile: modern` speaks TLS 1.3 only, so that a lower `minimum_version` could not hold.",
    "Remove `minimum_version`, or take `profile: intermediate`.",
)
PIN = _code(
    "054",
    "bad pin",
    "A pin is `sha256/` and the base64 of the SHA-256 hash of a public key in DER form "
    "(SubjectPublicKeyInfo), 44 characters.",
    "Make it with `openssl x509 -in cert.pem -pubkey -noout | openssl pkey -pubin -outform DER | "
    "openssl dgst -sha256 -binary | base64`.",
)
FINGERPRINT = _code(
    "055",
    "bad fingerprint",
    "A certificate's fingerprint is the SHA-256 hash of its DER form: 64 hex digits, with or "
    "without colons.",
    "Print it with `openssl x509 -in cert.pem -noout -fingerprint -sha256`.",
)
LIST = _code(
    "056",
    "list of networks cannot be used",
    "A file that `allow` or `deny` names is missing, is no text, is too long, or this user may not "
    "read it; or an `allow` list has no entry, which would let everybody in.",
    "Check the path (relative to the file that names it) and the permissions.",
)
BALANCE = _code(
    "059",
    "settings that the balance policy does not have",
    "`key`, the prefixes and `max_load_percent` are `maglev`'s, a prefix belongs to its "
    "`key: source`, and `slow_start` is for every policy but `maglev`.",
    "Remove the setting, or choose the policy that has it.",
)
QUEUE = _code(
    "078",
    "queue that nobody would wait in",
    "Requests and connections wait in a pool's `queue` when every endpoint has as many connections "
    "as `limits.connections` allows. Without that limit no endpoint is ever full, and datagrams do "
    "not wait.",
    "Set `limits: {connections: …}`, or remove `queue`.",
)
POOL_PROTOCOL = _code(
    "088",
    "pool protocol and TLS do not fit",
    "`h2` and `auto` are agreed in the TLS handshake, so the pool needs `tls` (`{}` = with all "
    "defaults); `h2c` is HTTP/2 in cleartext.",
    "Add `tls: {}`, or choose the protocol that the endpoints speak.",
)
ATTACH = _code(
    "069",
    "gateways here and attached ones",
    "With `gateway.attach` every gateway runs in another container; `workers` would start them "
    "here.",
    "Remove one of the two; `attach.seats` says how many may attach.",
)
GRPC_POOL = _code(
    "089",
    "gRPC-Web to a pool without HTTP/2",
    "The filter `grpc_web` makes calls of gRPC, which needs HTTP/2 up to the endpoint: there is no "
    "gRPC over HTTP/1.1.",
    "Set `protocol: h2c` (cleartext), or `h2` with `tls`, in the pool, or remove the filter.",
)
NATIVE = _code(
    "060",
    "refused by the data plane",
    "The schema is right, but the data plane cannot run this value: a regex that does not compile, "
    "a key that does not belong to its certificate.",
    "Follow the message.",
)

# Warnings
SHADOWED = _code(
    "101",
    "route is never reached",
    "Routes are tried in the order written, and an earlier one matches every request that this one "
    "matches.",
    "Move the narrower route up, or remove it.",
)
UNUSED_POOL = _code(
    "102",
    "pool is never used",
    "No route and no listener names this pool.",
    "Use it or remove it; it is checked and kept in memory all the same.",
)
EMPTY_POOL = _code(
    "103",
    "pool without endpoints",
    "The pool has no endpoint, or each has weight 0.",
    "Add one. Until then every request for it is answered with 503.",
)
NO_ROUTES = _code(
    "104",
    "listener without routes",
    "There is an `http` listener, but no route: every request is answered with 404.",
    "Add a route, or set `protocol: tcp` with a `pool`.",
)
NODE_SECRET = _code(
    "113",
    "gateway nodes with a secret each",
    "Sticky cookies are signed, and TLS sessions resumed, with `gateway.cookie_secret`. Without "
    "one each node makes its own at random, and a client that comes to another node begins anew.",
    "Set `gateway.cookie_secret` to the same 64 hex digits on every node.",
)
KERNEL = _code(
    "112",
    "more than the kernel of this host gives",
    "The kernel silently gives less than the listener asks for, or has no such congestion control "
    "loaded. `weirgate doctor` looks at everything of this kind.",
    "Raise the limit with the command that `weirgate doctor` names, or ask for less.",
)
KEY_LOG = _code(
    "114",
    "keys of TLS connections are written to a file",
    "With `gateway.danger_key_log` everything that clients send and get can be decrypted, also "
    "later, by whoever has the file and a capture of the network.",
    "Remove the key, and the file, as soon as the fault is found.",
)
NO_CLIENT_CA = _code(
    "115",
    "client certificates that nobody asks for",
    "A route wants a client certificate, but no listener has `tls.client`, so that no client is "
    "asked for one.",
    "Add `tls: {client: {ca: ca.pem}}` to the listener.",
)
GRPC_OVER_HTTP1 = _code(
    "116",
    "gRPC to a pool without HTTP/2",
    "The route matches calls of gRPC, but its pool speaks HTTP/1.1 with the endpoints, and servers "
    "of gRPC understand HTTP/2 only.",
    "Set `protocol: h2c` (cleartext), or `h2` with `tls`, in the pool.",
)
IDLE_PROTOCOL = _code(
    "117",
    "protocol of a pool that nobody speaks",
    "The `protocol` of a pool says what gateways, and checks by HTTP, speak with its endpoints. "
    "Listeners of layer 4 relay what the client speaks, whatever it is.",
    "Remove `protocol`.",
)
ADMIN_EXPOSED = _code(
    "105",
    "admin API open to the network",
    "The admin API can reload, and without `admin.token` it asks for no password: "
    "whoever reaches the address may use it. The supervisor refuses to run so.",
    "Bind it to 127.0.0.1 or [::1], or set `admin.token`.",
)
