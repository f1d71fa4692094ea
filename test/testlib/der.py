"""DER by hand, for what a library will not write: each function returns the bytes of one element, and anything
may be replaced by other bytes. Source: X.690; RFC 5280 section 4.1."""
import base64
import datetime

UTC_TIME, GENERALIZED_TIME = 0x17, 0x18


def length(size):
    """The shortest form."""
    if size < 0x80:
        return bytes([size])
    raw = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(raw)]) + raw


def tlv(tag, *parts):
    body = b"".join(parts)
    return bytes([tag]) + length(len(body)) + body


def sequence(*parts):
    return tlv(0x30, *parts)


def set_of(*parts):
    return tlv(0x31, *parts)


def explicit(number, *parts):
    """[number] around whole elements."""
    return tlv(0xA0 | number, *parts)


def implicit(number, body):
    """[number] in place of the tag of a primitive element."""
    return tlv(0x80 | number, body)


def integer(value):
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def boolean(value):
    return tlv(0x01, b"\xff" if value else b"\0")


def octets(*parts):
    return tlv(0x04, *parts)


def bits(body, unused=0):
    return tlv(0x03, bytes([unused]), body)


def named_bits(*numbers):
    """A BIT STRING of flags (bit 0 is the first), without zeros at the end."""
    size = max(numbers, default=-1) + 1
    value = sum(1 << (size - 1 - number) for number in numbers)
    unused = -size % 8
    return bits((value << unused).to_bytes((size + 7) // 8, "big"), unused)


def oid(text):
    first, second, *rest = map(int, text.split("."))
    body = b""
    for number in (first * 40 + second, *rest):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        body += bytes(reversed(groups))
    return tlv(0x06, body)


def utf8(text):
    return tlv(0x0C, text if isinstance(text, bytes) else text.encode())


NULL = tlv(0x05)


def time(when):
    """UTCTime until 2049, GeneralizedTime after, as RFC 5280 wants it."""
    if isinstance(when, (int, float)):
        when = datetime.datetime.fromtimestamp(when, datetime.timezone.utc)
    if when.year < 2050:
        return tlv(UTC_TIME, when.strftime("%y%m%d%H%M%SZ").encode())
    return tlv(GENERALIZED_TIME, when.strftime("%Y%m%d%H%M%SZ").encode())


def name(common_name):
    return sequence(set_of(sequence(oid("2.5.4.3"), utf8(common_name)))) if common_name else sequence()



def pem(label, der):
    text = base64.b64encode(der).decode()
    lines = "\n".join(text[at:at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n".encode()
