"""The type checker behind shape checking: beartype, for which an int is a float as usual."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
