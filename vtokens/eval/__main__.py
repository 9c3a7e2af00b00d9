"""`python -m vtokens.eval tasks-path` prints where our tasks are; else it is `python -m vtokens eval`, as before."""

from __future__ import annotations

import runpy
import sys
import warnings

if sys.argv[1:2] == ["tasks-path"]:
    from vtokens.eval import tasks_path

    print(tasks_path())
else:
    warnings.warn(
        "python -m vtokens.eval ... is now python -m vtokens eval ...; the old way goes away in 0.3",
        DeprecationWarning,
        stacklevel=1,
    )
    sys.argv[1:1] = ["eval"]
    runpy.run_module("vtokens", run_name="__main__", alter_sys=True)
