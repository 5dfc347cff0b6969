"""That ``analysis`` and ``search_spaces`` are ours: the packages beside this one, whatever lies in the folder a person works in.

Python looks there first, and a file ``analysis.py`` is no rare thing in a study's folder.
"""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

from raystudy.errors import InputError

OURS = ("analysis", "search_spaces")
ROOT = Path(__file__).resolve().parent.parent


def pin() -> None:
    """Sees to it. Raises InputError where another module of such a name is imported already."""
    for name in OURS:
        place = ROOT / name / "__init__.py"
        if loaded := sys.modules.get(name):
            if not place.samefile(loaded.__file__ or "/"):
                raise InputError(
                    f"a module {name!r} of yours is imported ({loaded.__file__}); raystudy has one of this name: rename yours"
                )
            continue
        found = find_spec(name)
        if found and found.origin and place.samefile(found.origin):
            continue
        spec = spec_from_file_location(name, place, submodule_search_locations=[str(place.parent)])
        assert spec
        assert spec.loader
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
