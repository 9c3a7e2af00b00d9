"""`python -m vtokens` is `vtokens`."""

from vtokens.cli import main

main()
