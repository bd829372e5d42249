"""The formats of strings that are enforced, as regular expressions for whole texts.

What matches is valid; not all that is valid matches (years have four digits, no leap seconds). A format that is
not here, or stands beside a `pattern` or a length, is an annotation, as the standard lets it be: both at once
would take an automaton for each length.
"""

_YEAR = r"[1-9]\d{3}"
_LEAP_YEAR = r"(?:[1-9]\d(?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    rf"|02-(?:0[1-9]|1\d|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_IN_DAY = r"T(?:\d{1,4}S|\d{1,4}M(?:\d{1,4}S)?|\d{1,4}H(?:\d{1,4}M(?:\d{1,4}S)?)?)"
_IN_DATE = r"(?:\d{1,4}D|\d{1,4}M(?:\d{1,4}D)?|\d{1,4}Y(?:\d{1,4}M(?:\d{1,4}D)?)?)"
_OCTET = r"(?:\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_GROUP = r"[0-9a-f]{1,4}"
_SHORT_IPV6 = "|".join(rf"(?:{_GROUP}:){{1,{n}}}(?::{_GROUP}){{1,{7 - n}}}" for n in range(1, 7))
_IPV6 = rf"(?:{_GROUP}:){{7}}{_GROUP}|{_SHORT_IPV6}|(?:{_GROUP}:){{1,7}}:|:(?::{_GROUP}){{1,7}}|::"
_LABEL = r"[A-Za-z0-9]{1,16}(?:-[A-Za-z0-9]{1,16}){0,2}"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,3}}"
_ATOM = r"[A-Za-z0-9_+-]{1,30}"
_PATH_CHAR = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"

FORMATS = {
    name: f"^(?:{pattern})$"
    for name, pattern in {
        "date": _DATE,
        "time": _TIME,
        "date-time": f"{_DATE}T{_TIME}",
        "duration": rf"P(?:{_IN_DATE}(?:{_IN_DAY})?|{_IN_DAY}|\d{{1,4}}W)",
        "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "email": rf"{_ATOM}(?:\.{_ATOM}){{0,3}}@{_LABEL}(?:\.{_LABEL}){{0,3}}\.[A-Za-z]{{2,10}}",
        "hostname": _HOST,
        "ipv4": _IPV4,
        "ipv6": _IPV6,
        "uri": rf"[a-z][a-z0-9+.-]{{0,15}}://{_HOST}(?::\d{{1,4}})?(?:/{_PATH_CHAR}*)*(?:\?(?:{_PATH_CHAR}|[/?])*)?"
        rf"(?:#(?:{_PATH_CHAR}|[/?])*)?",
    }.items()
}
