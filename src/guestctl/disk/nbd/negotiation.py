"""The option haggling of one connection: options in, replies out. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from guestctl.disk.nbd import layout

BASE_ALLOCATION = b"base:allocation"
BASE_ALLOCATION_ID = 1

# Names and queries are at most 4096 bytes each; a client needs few of them, and few options.
MAX_OPTION_BYTES = 64 << 10
MAX_OPTIONS = 256
_PREFERRED_BLOCK_BYTES = 4096
_WRITING_FLAGS = (
    layout.FLAG_SEND_FLUSH
    | layout.FLAG_SEND_FUA
    | layout.FLAG_SEND_TRIM
    | layout.FLAG_SEND_WRITE_ZEROES
    | layout.FLAG_SEND_FAST_ZERO
)


class State(Enum):
    """What comes after the replies."""

    OPTIONS = "more options"
    TLS = "a TLS handshake, and options"
    TRANSMISSION = "the transmission phase"
    END = "the end of the connection"


class _Invalid(Exception):
    """The data of an option is not what the option asks for."""


@dataclass
class Negotiation:
    """What a client has agreed on so far. With ``offers_tls`` nothing is agreed on outside TLS."""

    export: bytes
    size: int
    writable: bool = False
    offers_tls: bool = False
    secure: bool = False
    state: State = State.OPTIONS
    fixed: bool = False
    zeroes: bool = True
    structured: bool = False
    allocation: bool = False  # the context base:allocation is selected
    option_count: int = 0

    @staticmethod
    def greeting() -> bytes:
        flags = layout.FLAG_FIXED_NEWSTYLE | layout.FLAG_NO_ZEROES
        return layout.GREETING.pack(layout.NBDMAGIC, layout.IHAVEOPT, flags)

    def client_flags(self, data: bytes) -> None:
        """Take the client's flags; unknown ones end the connection."""
        (flags,) = layout.CLIENT_FLAGS.unpack(data)
        self.fixed = bool(flags & layout.FLAG_C_FIXED_NEWSTYLE)
        self.zeroes = not flags & layout.FLAG_C_NO_ZEROES
        if flags & ~(layout.FLAG_C_FIXED_NEWSTYLE | layout.FLAG_C_NO_ZEROES):
            self.state = State.END

    def answer(self, option: int, data: bytes) -> bytes:
        """The replies to an option; ``state`` says what comes after them."""
        self.option_count += 1
        if self.option_count > MAX_OPTIONS or not (self.fixed or option == layout.OPT_EXPORT_NAME):
            self.state = State.END
            return b""
        if option == layout.OPT_EXPORT_NAME:
            return self._export_name(data)
        if option == layout.OPT_ABORT:
            self.state = State.END
            return _reply(option, layout.REP_ACK)
        if option == layout.OPT_STARTTLS:
            return self._start_tls(option, data)
        if self.offers_tls and not self.secure:
            return _reply(option, layout.REP_ERR_TLS_REQD)
        handler = _HANDLERS.get(option)
        if handler is None:
            return _reply(option, layout.REP_ERR_UNSUP)
        try:
            return handler(self, option, data)
        except _Invalid as error:
            return _reply(option, layout.REP_ERR_INVALID, str(error).encode())

    def transmission_flags(self) -> int:
        flags = layout.FLAG_HAS_FLAGS | layout.FLAG_CAN_MULTI_CONN | layout.FLAG_SEND_CACHE
        flags |= _WRITING_FLAGS if self.writable else layout.FLAG_READ_ONLY
        return flags | layout.FLAG_SEND_DF if self.structured else flags

    def _knows(self, name: bytes) -> bool:
        return name in (b"", self.export)  # the empty name is that of the default export

    def _export_name(self, name: bytes) -> bytes:
        if not self._knows(name) or (self.offers_tls and not self.secure):
            self.state = State.END
            return b""
        self.state = State.TRANSMISSION
        reply = layout.EXPORT_NAME_REPLY.pack(self.size, self.transmission_flags())
        return reply + layout.EXPORT_NAME_ZEROES if self.zeroes else reply

    def _start_tls(self, option: int, data: bytes) -> bytes:
        if not self.offers_tls:
            return _reply(option, layout.REP_ERR_POLICY, b"this server has no TLS credentials")
        if data or self.secure:
            return _reply(option, layout.REP_ERR_INVALID)
        self.state = State.TLS
        # What was agreed on in the clear counts no more.
        self.structured = self.allocation = False
        return _reply(option, layout.REP_ACK)

    def _list(self, option: int, data: bytes) -> bytes:
        _check_empty(data)
        server = layout.UINT32.pack(len(self.export)) + self.export
        return _reply(option, layout.REP_SERVER, server) + _reply(option, layout.REP_ACK)

    def _structured_reply(self, option: int, data: bytes) -> bytes:
        _check_empty(data)
        self.structured = True
        return _reply(option, layout.REP_ACK)

    def _info(self, option: int, data: bytes) -> bytes:
        name, rest = _take_string(data)
        count, rest = _take_number(rest, layout.UINT16.size)
        if len(rest) != count * layout.UINT16.size:
            raise _Invalid("the number of information requests is wrong")
        if not self._knows(name):
            return _unknown(option)
        wanted = {kind for (kind,) in layout.UINT16.iter_unpack(rest)}
        infos = [layout.INFO_EXPORT_REPLY.pack(layout.INFO_EXPORT, self.size, self.transmission_flags())]
        if layout.INFO_NAME in wanted:
            infos.append(layout.UINT16.pack(layout.INFO_NAME) + self.export)
        if layout.INFO_BLOCK_SIZE in wanted:
            sizes = (1, _PREFERRED_BLOCK_BYTES, layout.MAX_REQUEST_BYTES)
            infos.append(layout.INFO_BLOCK_SIZE_REPLY.pack(layout.INFO_BLOCK_SIZE, *sizes))
        if option == layout.OPT_GO:
            self.state = State.TRANSMISSION
        return b"".join(_reply(option, layout.REP_INFO, info) for info in infos) + _reply(option, layout.REP_ACK)

    def _meta_context(self, option: int, data: bytes) -> bytes:
        selects = option == layout.OPT_SET_META_CONTEXT
        if selects:
            self.allocation = False
        if not self.structured:
            raise _Invalid("structured replies come first")
        name, rest = _take_string(data)
        count, rest = _take_number(rest, layout.UINT32.size)
        queries = set()
        for _ in range(count):
            query, rest = _take_string(rest)
            queries.add(query)
        if rest:
            raise _Invalid("the number of queries is wrong")
        if not self._knows(name):
            return _unknown(option)
        found = BASE_ALLOCATION in queries or (not selects and (not queries or b"base:" in queries))
        if not found:
            return _reply(option, layout.REP_ACK)
        self.allocation = self.allocation or selects
        context = layout.UINT32.pack(BASE_ALLOCATION_ID if selects else 0) + BASE_ALLOCATION
        return _reply(option, layout.REP_META_CONTEXT, context) + _reply(option, layout.REP_ACK)


_HANDLERS = {
    layout.OPT_LIST: Negotiation._list,
    layout.OPT_INFO: Negotiation._info,
    layout.OPT_GO: Negotiation._info,
    layout.OPT_STRUCTURED_REPLY: Negotiation._structured_reply,
    layout.OPT_LIST_META_CONTEXT: Negotiation._meta_context,
    layout.OPT_SET_META_CONTEXT: Negotiation._meta_context,
}


def _reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return layout.OPTION_REPLY.pack(layout.OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def _unknown(option: int) -> bytes:
    return _reply(option, layout.REP_ERR_UNKNOWN, b"no such export")


def _check_empty(data: bytes) -> None:
    if data:
        raise _Invalid("this option has no data")


def _take_number(data: bytes, size: int) -> tuple[int, bytes]:
    if len(data) < size:
        raise _Invalid("the option ends early")
    return int.from_bytes(data[:size], "big"), data[size:]


def _take_string(data: bytes) -> tuple[bytes, bytes]:
    length, rest = _take_number(data, layout.UINT32.size)
    if len(rest) < length:
        raise _Invalid("a string is longer than the option")
    return rest[:length], rest[length:]
