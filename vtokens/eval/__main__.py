"""`python -m vtokens.eval`, as `torchrun` needs it, is `vtokens eval`; `tasks-path` prints where our tasks are."""

from __future__ import annotations

import sys

if sys.argv[1:2] == ["tasks-path"]:
    from vtokens.eval import tasks_path

    print(tasks_path())
else:
    from vtokens.cli import main

    main(["eval", *sys.argv[1:]])
