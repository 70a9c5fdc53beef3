"""The messages of the NBD protocol: "Values" in its document. All integers are big-endian."""

from __future__ import annotations

from struct import Struct

# Negotiation

NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x3E889045565A9

GREETING = Struct(">QQH")  # NBDMAGIC, IHAVEOPT, handshake flags
CLIENT_FLAGS = Struct(">I")
OPTION = Struct(">QII")  # IHAVEOPT, option, length of data
OPTION_REPLY = Struct(">QIII")  # magic, option, type of reply, length of data
EXPORT_NAME_REPLY = Struct(">QH")  # size, transmission flags
EXPORT_NAME_ZEROES = bytes(124)
UINT16 = Struct(">H")
UINT32 = Struct(">I")

FLAG_FIXED_NEWSTYLE = FLAG_C_FIXED_NEWSTYLE = 1 << 0
FLAG_NO_ZEROES = FLAG_C_NO_ZEROES = 1 << 1

OPT_EXPORT_NAME = 1
OPT_ABORT = 2
OPT_LIST = 3
OPT_STARTTLS = 5
OPT_INFO = 6
OPT_GO = 7
OPT_STRUCTURED_REPLY = 8
OPT_LIST_META_CONTEXT = 9
OPT_SET_META_CONTEXT = 10

REP_ACK = 1
REP_SERVER = 2
REP_INFO = 3
REP_META_CONTEXT = 4
REP_ERR_UNSUP = 1 << 31 | 1
REP_ERR_POLICY = 1 << 31 | 2
REP_ERR_INVALID = 1 << 31 | 3
REP_ERR_TLS_REQD = 1 << 31 | 5
REP_ERR_UNKNOWN = 1 << 31 | 6

INFO_EXPORT = 0
INFO_NAME = 1
INFO_BLOCK_SIZE = 3
INFO_EXPORT_REPLY = Struct(">HQH")  # type, size, transmission flags
INFO_BLOCK_SIZE_REPLY = Struct(">HIII")  # type, minimum, preferred, maximum

FLAG_HAS_FLAGS = 1 << 0
FLAG_READ_ONLY = 1 << 1
FLAG_SEND_FLUSH = 1 << 2
FLAG_SEND_FUA = 1 << 3
FLAG_SEND_TRIM = 1 << 5
FLAG_SEND_WRITE_ZEROES = 1 << 6
FLAG_SEND_DF = 1 << 7
FLAG_CAN_MULTI_CONN = 1 << 8
FLAG_SEND_CACHE = 1 << 10
FLAG_SEND_FAST_ZERO = 1 << 11

# Transmission

REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

REQUEST = Struct(">IHHQQI")  # magic, command flags, type, cookie, offset, length
SIMPLE_REPLY = Struct(">IIQ")  # magic, error, cookie
REPLY_CHUNK = Struct(">IHHQI")  # magic, flags, type, cookie, length of payload
OFFSET_DATA_CHUNK = Struct(">IHHQIQ")  # and offset
OFFSET_HOLE_CHUNK = Struct(">IHHQIQI")  # and offset, size of the hole
ERROR_CHUNK = Struct(">IHHQIIH")  # and error, length of message
STATUS_DESCRIPTOR = Struct(">II")  # length, flags

CMD_READ = 0
CMD_WRITE = 1
CMD_DISC = 2
CMD_FLUSH = 3
CMD_TRIM = 4
CMD_CACHE = 5
CMD_WRITE_ZEROES = 6
CMD_BLOCK_STATUS = 7
CMD_RESIZE = 8

CMD_FLAG_FUA = 1 << 0
CMD_FLAG_NO_HOLE = 1 << 1
CMD_FLAG_DF = 1 << 2
CMD_FLAG_REQ_ONE = 1 << 3
CMD_FLAG_FAST_ZERO = 1 << 4

REPLY_FLAG_DONE = 1 << 0
REPLY_TYPE_NONE = 0
REPLY_TYPE_OFFSET_DATA = 1
REPLY_TYPE_OFFSET_HOLE = 2
REPLY_TYPE_BLOCK_STATUS = 5
REPLY_TYPE_ERROR = 1 << 15 | 1

STATE_HOLE = 1 << 0
STATE_ZERO = 1 << 1

# Errors have these numbers on every platform.
EPERM = 1
EIO = 5
EINVAL = 22
ENOSPC = 28
EOVERFLOW = 75
ENOTSUP = 95

# What the protocol lets a client expect where nothing else was agreed.
MAX_REQUEST_BYTES = 32 << 20
