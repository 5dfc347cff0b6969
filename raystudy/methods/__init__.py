"""The methods, by the name used on the command line, in search spaces and in tables. One file per method."""

from raystudy.method import Method
from raystudy.methods.ce import CE
from raystudy.methods.coteaching import CoTeaching
from raystudy.methods.dividemix import DivideMix
from raystudy.methods.mixup import Mixup

METHODS: dict[str, type[Method]] = {
    "ce": CE,
    "coteaching": CoTeaching,
    "dividemix": DivideMix,
    "mixup": Mixup,
}
